package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// TestAWSScripts runs one script per promise against an account of its own.
func TestAWSScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", "aws"),
		UpdateScripts: *update,
		Cmds:          map[string]func(*testscript.TestScript, bool, []string){"code": code, "account": account, "disk": disk, "left": left},
		Setup: func(e *testscript.Env) error {
			server := awstest.New(awstest.Options{Dir: e.WorkDir, Machines: deaf{}})
			for _, r := range []string{"us-east-1", "eu-west-1"} {
				server.AddBaseImage(r, "099720109477", "ubuntu/images/hvm-ssd/ubuntu-focal-20.04-amd64-server-20250301", "x86_64", time.Now().AddDate(0, -1, 0))
			}
			web := httptest.NewServer(server)
			e.Defer(web.Close)
			e.Defer(func() {
				for _, c := range server.Complaints() {
					t.Errorf("the service complains: %s", c)
				}
			})
			e.Values["account"] = server
			gitlab := httptest.NewServer(gitlabtest.New(gitlabtest.Options{PrivateToken: "pat"}))
			e.Defer(gitlab.Close)
			firstboot := filepath.Join(e.WorkDir, "firstboot")
			for k, v := range map[string]string{"FIRSTBOOT": firstboot, "DORUNNER_STATE_DIR": filepath.Join(e.WorkDir, "state"), "HOME": e.WorkDir, "GITLAB": gitlab.URL,
				"AWS_ENDPOINT_URL": web.URL, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"} {
				e.Setenv(k, v)
			}
			return os.WriteFile(firstboot, emptyProgram(), 0o755)
		},
	})
}

// emptyProgram is the header of a Linux program for amd64, which is all that is looked at before there is a machine.
func emptyProgram() []byte {
	h := elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Ehsize: 64, Phentsize: 56, Shentsize: 64}
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, h) // a bytes.Buffer does not fail
	return b.Bytes()
}

// deaf are machines that never answer SSH.
type deaf struct{}

func (deaf) Start(awstest.Machine) (string, error) { return "127.0.0.1", nil }
func (deaf) Stop(string) error                     { return nil }
func (deaf) Console(id string) string {
	return "Linux version 5.4\nReached target Cloud-init target.\n" + runner.Report{State: runner.Online, Runner: "dataops-runner-dublin", InstanceID: id}.ConsoleLine()
}

// account changes how the account behaves: account KEY=VALUE...
func account(ts *testscript.TestScript, neg bool, args []string) {
	server := ts.Value("account").(*awstest.Server)
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		server.Configure(func(o *awstest.Options) {
			switch key {
			case "deny": // everything but one action
				p, err := awstest.ParsePolicy(fmt.Appendf(nil, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":%q,"Resource":"*"}]}`, value))
				ts.Check(err)
				o.Policy = p
			case "no-capacity":
				o.NoCapacity = strings.Split(value, ",")
			case "image-quota":
				o.ImageQuota = 1
			case "vcpus":
				o.VCPUs = 2
			case "snapshot-error":
				o.SnapshotError = value
			case "copy-error":
				o.CopyError = map[string]string{value: "the key is not usable"}
			default:
				if key != "expired" && key != "subnet" && key != "no-vpc" {
					ts.Fatalf("unknown setting %s", key)
				}
			}
		})
		switch key {
		case "expired":
			server.Expire()
		case "subnet": // with no way to the internet
			server.AddSubnet("us-east-1", value, "us-east-1a", false)
		case "no-vpc":
			server.RemoveNetworks()
		}
	}
}

// disk writes a disk of the metal target: disk FILE BAKE-ID
func disk(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(awsDisk(ts.MkAbs(args[0]), args[1]))
}

// awsDisk writes a disk that was baked for EC2, with its manifest.
func awsDisk(file, bakeID string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	sector := make([]byte, 1<<20)
	sector[0], sector[510], sector[511] = 0xfa, 0x55, 0xaa
	m, err := json.Marshal(builder.Manifest{PlanHash: "abc", Platform: "aws", BakeID: bakeID})
	return errors.Join(err, os.WriteFile(file, sector, 0o600), os.Truncate(file, 1<<30), os.WriteFile(filepath.Join(filepath.Dir(file), "manifest.json"), m, 0o600))
}

// left prints what the account holds.
func left(ts *testscript.TestScript, neg bool, args []string) {
	list := ts.Value("account").(*awstest.Server).Left()
	if neg && len(list) > 0 {
		ts.Fatalf("left behind: %s", strings.Join(list, ", "))
	}
	_, _ = fmt.Fprintln(ts.Stdout(), strings.Join(list, "\n"))
}

// TestAWSKilled kills the program at one call after the other, as kill -9 does, and has gc clean up: by the ledger on this
// machine, by tags alone on another. What was finished stays.
func TestAWSKilled(t *testing.T) {
	program, err := exec.LookPath("dorunner-bake")
	if err != nil {
		t.Fatal(err)
	}
	step, last := 4, 0
	switch {
	case testing.Short():
		step = 17
	case os.Getenv("DORUNNER_SOAK") != "":
		step = 1
	}
	for n, killed := 1, true; killed; n += step {
		for _, elsewhere := range []bool{false, true} {
			dir := t.TempDir()
			if err := awsDisk(filepath.Join(dir, "disk", "disk.raw"), "20260101-000000-000001"); err != nil {
				t.Fatal(err)
			}
			server := awstest.New(awstest.Options{Dir: dir})
			web := httptest.NewServer(server)
			command := func(state string, args ...string) *exec.Cmd {
				cmd := exec.Command(program, args...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "DORUNNER_STATE_DIR="+filepath.Join(dir, state), "HOME="+dir, "AWS_ENDPOINT_URL="+web.URL, "AWS_REGION=us-east-1",
					"AWS_ACCESS_KEY_ID=AKIDTEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true")
				return cmd
			}
			cmd := command("state", "aws", "--from-disk", filepath.Join("disk", "disk.raw"), "--copy-to", "eu-west-1,ap-southeast-1", "--deprecate-after", "9")
			started := make(chan struct{})
			server.OnCall = func(c awstest.Call) awstest.Reaction {
				if <-started; c.N == n {
					_ = cmd.Process.Kill() // the call takes effect all the same
				}
				return awstest.Reaction{}
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			close(started)
			_ = cmd.Wait()
			killed = !cmd.ProcessState.Exited()
			gc := []string{"gc", "aws", "--yes"}
			state := "state"
			if elsewhere {
				gc, state = append(gc, "--all"), "another"
			}
			if out, err := command(state, gc...).CombinedOutput(); err != nil {
				t.Errorf("killed at call %d: gc: %v\n%s", n, err, out)
			}
			whole := map[string]bool{}
			for _, i := range server.Images() {
				whole[i.ID] = i.Tags["dorunner:expires"] == "" && i.State == "available"
				for _, s := range i.Snapshots {
					whole[s] = whole[i.ID]
				}
			}
			for _, l := range server.Left() {
				if !whole[strings.Fields(l)[1]] {
					t.Errorf("killed at call %d, gc elsewhere %v: left %s", n, elsewhere, l)
				}
			}
			for _, c := range server.Complaints() {
				t.Errorf("the service complains: %s", c)
			}
			web.Close()
			if t.Failed() {
				return
			}
		}
		last = n
	}
	if last < 15 {
		t.Errorf("a bake made no %d calls", last)
	}
}
