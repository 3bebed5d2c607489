package aws

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/builder/ssh"
	"github.com/dorunner/dorunner-bake/images"
)

// scriptedGuest answers the engine's scripts as a machine on which all goes well.
type scriptedGuest struct{ plan *images.Plan }

func (g scriptedGuest) Run(_ context.Context, c builder.Command) error {
	name := filepath.Base(c.Args[0])
	if name == "sh" && len(c.Args) > 3 {
		name = c.Args[3]
	}
	if c.Stdin != nil {
		if _, err := io.Copy(io.Discard, c.Stdin); err != nil {
			return err
		}
	}
	if c.Stdout == nil {
		return nil
	}
	switch name {
	case "install.sh":
		_, _ = io.WriteString(c.Stdout, "admin absent\n")
	case "facts.sh":
		_, _ = io.WriteString(c.Stdout, "docker\t28.1.1\npackage\tdocker-ce\t5:28.1.1\n")
	case "seal-and-audit.sh":
		_, _ = io.WriteString(c.Stdout, "root_used 4096\naudit\n")
	case "prove.sh":
		_, _ = io.WriteString(c.Stdout, "version 28.1.1\n")
		for _, p := range g.plan.Containers {
			_, _ = fmt.Fprintf(c.Stdout, "image\t%s\tsha256:1\t10\t%s@sha256:%s \n", p.Ref, p.Ref, strings.Repeat("a", 64))
		}
	}
	return nil
}

func (scriptedGuest) Upload(_ context.Context, _ string, r io.Reader, _ fs.FileMode) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

func (scriptedGuest) Download(_ context.Context, _ string, w io.Writer) error {
	_, err := io.WriteString(w, "system_info:\n  default_user:\n    name: ubuntu\n    groups: [adm, sudo]\n")
	return err
}

// TestWholeBake is the engine's own bake in this cloud: its manifest says what was made, and the second time is a no-op.
func TestWholeBake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Setenv("DORUNNER_STATE_DIR", t.TempDir())
		w := newWorld(t, awstest.Options{Consistency: time.Second, Delays: awstest.Delays{Run: 8 * time.Second, Stop: 12 * time.Second, Image: 25 * time.Second, Copy: 30 * time.Second, Terminate: 10 * time.Second}})
		w.spec.AWS = images.AWS{CopyTo: []string{"eu-west-1"}}
		plan := w.plan()
		program := filepath.Join(t.TempDir(), "dorunner-firstboot")
		var header bytes.Buffer
		err := binary.Write(&header, binary.LittleEndian, elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Ehsize: 64, Phentsize: 56, Shentsize: 64})
		if err == nil {
			err = os.WriteFile(program, header.Bytes(), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for i := range 2 {
			out := filepath.Join(t.TempDir(), "out")
			cloud := New(Options{Config: w.config(),
				Dial:     func(context.Context, ssh.Config) (builder.Guest, error) { return scriptedGuest{plan}, nil },
				CallerIP: func(context.Context) (netip.Addr, error) { return netip.MustParseAddr("198.51.100.7"), nil }})
			began := time.Now()
			m, err := builder.Bake(t.Context(), plan, cloud, builder.Options{FirstBoot: program, OutDir: out})
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Artifact.Images) != 2 || m.Artifact.Reused != (i == 1) {
				t.Fatalf("bake %d: %+v", i, m.Artifact)
			}
			ids = append(ids, m.Artifact.Images[0].ID)
			if i == 1 {
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("finding that there is nothing to do took %v", took)
				}
				continue
			}
			var written builder.Manifest
			text, err := os.ReadFile(filepath.Join(out, "manifest.json"))
			if err == nil {
				err = json.Unmarshal(text, &written)
			}
			if err != nil || written.Base.Source != w.base || written.Target != "aws" || written.Platform != "aws" {
				t.Errorf("manifest %+v, %v", written, err)
			}
		}
		if ids[0] != ids[1] {
			t.Errorf("ids %v", ids)
		}
		time.Sleep(time.Minute)
		w.onlyFinished()
		w.noComplaints()
	})
}
