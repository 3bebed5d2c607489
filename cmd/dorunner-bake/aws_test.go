package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
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
	file := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
	sector := make([]byte, 1<<20)
	sector[0], sector[510], sector[511] = 0xfa, 0x55, 0xaa
	ts.Check(os.WriteFile(file, sector, 0o600))
	ts.Check(os.Truncate(file, 1<<30))
	m, err := json.Marshal(builder.Manifest{PlanHash: "abc", Platform: "aws", BakeID: args[1]})
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(filepath.Dir(file), "manifest.json"), m, 0o600))
}

// left prints what the account holds.
func left(ts *testscript.TestScript, neg bool, args []string) {
	list := ts.Value("account").(*awstest.Server).Left()
	if neg && len(list) > 0 {
		ts.Fatalf("left behind: %s", strings.Join(list, ", "))
	}
	_, _ = fmt.Fprintln(ts.Stdout(), strings.Join(list, "\n"))
}
