package packer

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/builder/packer/packertest"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standinimage"
)

// tool is the real Packer with our plugin installed, and what a template of the tests refers to.
type tool struct {
	t                 *testing.T
	dir, packer, boot string
	env               []string
	onLine            func(line string) // sees what Packer prints, as it does
	prompt            string            // answered each time that it is printed
	answer            func(n int)       // from 0
	process           atomic.Pointer[os.Process]
	limit             time.Duration // of a run; default two minutes
}

func newTool(t *testing.T) *tool {
	t.Helper()
	dir := t.TempDir()
	p := &tool{t: t, dir: dir, packer: packertest.Packer(t)}
	p.setenv("PACKER_PLUGIN_PATH", filepath.Join(dir, "plugins"), "PACKER_CONFIG_DIR", dir, "CHECKPOINT_DISABLE", "1",
		"PACKER_NO_COLOR", "1", "DORUNNER_STATE_DIR", filepath.Join(dir, "state"))
	plugin := packertest.Tool(t, ".", "packer-plugin-dorunner", "../../cmd/packer-plugin-dorunner")
	p.boot = packertest.Tool(t, ".", "dorunner-firstboot", "../../cmd/dorunner-firstboot")
	p.run(0, "plugins", "install", "--path", plugin, "github.com/dorunner/dorunner")
	return p
}

// on is the tool in a part of a test.
func (p *tool) on(t *testing.T) *tool {
	return &tool{t: t, dir: p.dir, packer: p.packer, boot: p.boot, env: slices.Clone(p.env)}
}

func (p *tool) setenv(pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		p.env = append(p.env, pairs[i]+"="+pairs[i+1])
	}
}

// run runs Packer and returns what it printed, which is shown when the exit status is not the one wanted.
func (p *tool) run(status int, args ...string) string {
	p.t.Helper()
	return p.wanted(status, args, exec.Command(p.packer, args...))
}

// typed runs Packer on a terminal, where one answer is typed at each prompt. Its last one is typed again and again.
func (p *tool) typed(status int, prompt string, answers []string, args ...string) string {
	p.t.Helper()
	cmd := exec.Command("script", "-qec", p.packer+" "+strings.Join(args, " "), "/dev/null")
	in, err := cmd.StdinPipe() // left open until the end: its end would hang up the terminal
	if err != nil {
		p.t.Fatal(err)
	}
	p.prompt, p.answer = prompt, func(n int) {
		_, _ = io.WriteString(in, answers[min(n, len(answers)-1)]+"\r")
	}
	return strings.ReplaceAll(p.wanted(status, args, cmd), "\r\n", "\n")
}

func (p *tool) wanted(status int, args []string, cmd *exec.Cmd) string {
	p.t.Helper()
	out, got := p.start(cmd)
	if got != status {
		p.t.Fatalf("packer %s: exit status %d, want %d\n%s", strings.Join(args, " "), got, status, out)
	}
	return out
}

// start runs a command to its end. When it takes too long it is interrupted, then killed.
func (p *tool) start(cmd *exec.Cmd) (out string, status int) {
	p.t.Helper()
	lines := &watched{tool: p}
	cmd.Dir, cmd.Env = p.dir, append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = lines, lines
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.process.Store(cmd.Process)
	limit := cmp.Or(p.limit, 2*time.Minute)
	soft := time.AfterFunc(limit, p.interrupt)
	hard := time.AfterFunc(limit+time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	_ = cmd.Wait() // its status says all
	soft.Stop()
	hard.Stop()
	return lines.String(), cmd.ProcessState.ExitCode()
}

// interrupt is Ctrl-C: every process in the foreground gets it, the plugins too.
func (p *tool) interrupt() { _ = syscall.Kill(-p.process.Load().Pid, syscall.SIGINT) }

// watched keeps output and shows it to the test.
type watched struct {
	tool    *tool
	mu      sync.Mutex
	buf     bytes.Buffer
	line    []byte // begun
	prompts int
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(b)
	w.line = append(w.line, b...)
	for p := w.tool; p.prompt != "" && bytes.Count(w.buf.Bytes(), []byte(p.prompt)) > w.prompts; w.prompts++ {
		p.answer(w.prompts)
	}
	for {
		line, rest, found := bytes.Cut(w.line, []byte("\n"))
		if !found {
			return len(b), nil
		}
		if w.line = rest; w.tool.onLine != nil {
			w.tool.onLine(string(line))
		}
	}
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// template writes a build of sources, each TYPE {attributes}, and provisioners.
func (p *tool) template(provisioners string, sources ...string) string {
	p.t.Helper()
	var text strings.Builder
	text.WriteString(`packer {
  required_plugins {
    dorunner = {
      source  = "github.com/dorunner/dorunner"
      version = ">= 0.1.0"
    }
  }
}

variable "password" {
  type      = string
  default   = "open sesame"
  sensitive = true
}
`)
	var names []string
	for _, s := range sources {
		kind, attributes, _ := strings.Cut(s, " ")
		fmt.Fprintf(&text, "\nsource %q \"runner\" {\n%s}\n", kind, attributes)
		names = append(names, strconv.Quote("source."+kind+".runner"))
	}
	fmt.Fprintf(&text, "\nbuild {\n  sources = [%s]\n%s}\n", strings.Join(names, ", "), provisioners)
	dir, err := os.MkdirTemp(p.dir, "template-")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "build.pkr.hcl"), []byte(text.String()), 0o600)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return dir
}

// says checks that output holds every text.
func (p *tool) says(out string, texts ...string) {
	p.t.Helper()
	for _, want := range texts {
		if !strings.Contains(out, want) {
			p.t.Errorf("not said: %q\n%s", want, out)
		}
	}
}

// account is an account with a base image, and the machine that its instances are.
type account struct {
	*awstest.Server
	machine *packertest.Machine
	source  string // the beginning of a template's source
}

func (p *tool) account() *account {
	p.t.Helper()
	a := &account{machine: packertest.NewMachine(p.t)}
	a.Server = awstest.New(awstest.Options{Dir: p.t.TempDir(), Machines: a.machine})
	for _, r := range []string{"us-east-1", "eu-west-1"} {
		a.AddBaseImage(r, "099720109477", "ubuntu/images/hvm-ssd/ubuntu-focal-20.04-amd64-server-20250301", "x86_64", time.Now().AddDate(0, -1, 0))
	}
	web := httptest.NewServer(a)
	p.t.Cleanup(web.Close)
	p.t.Cleanup(func() {
		for _, c := range a.Complaints() {
			p.t.Errorf("the service complains: %s", c)
		}
	})
	p.setenv("AWS_ENDPOINT_URL", web.URL, "AWS_ACCESS_KEY_ID", "AKIDTEST", "AWS_SECRET_ACCESS_KEY", "secret", "AWS_EC2_METADATA_DISABLED", "true")
	a.source = fmt.Sprintf(`dorunner-aws   region                               = "us-east-1"
  temporary_security_group_source_cidr = "198.51.100.7/32"
  ssh_port                             = %d
  firstboot                            = %q
`, a.machine.Port, p.boot)
	return a
}

// metal is the source of a small disk image.
func (p *tool) metal(attributes string) string {
	p.t.Helper()
	if os.Geteuid() != 0 {
		p.t.Skip("an offline bake needs root")
	}
	archive := filepath.Join(p.dir, "images.tar")
	if _, err := os.Stat(archive); err != nil {
		images, err := standinimage.Build(p.t.Context(), runtime.GOARCH)
		if err != nil {
			p.t.Fatal(err)
		}
		all := map[string]v1.Image{}
		for ref, img := range images {
			all[ref] = img
		}
		if err := standinimage.Save(archive, all); err != nil {
			p.t.Fatal(err)
		}
	}
	return fmt.Sprintf(`dorunner-metal   os            = "debian-12"
  docker_source = "distro"
  disk_gb       = 4
  firstboot     = %q
  formats       = ["raw"]
  container_archives = {
    "dataopslive/dataops-runner"       = %q
    "dataopslive/dataops-utils-runner" = %q
  }
%s`, p.boot, archive, archive, attributes)
}

func TestOverridesWinOverTheSpecFile(t *testing.T) {
	spec := filepath.Join(t.TempDir(), "dorunner.yaml")
	if err := os.WriteFile(spec, []byte("image: {os: ubuntu-22.04}\nmetal: {formats: [vhd], cpus: 3}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := new(Metal)
	_, _, err := b.Prepare(map[string]any{"spec_file": spec, "firstboot": spec, "formats": []string{"raw", "qcow2"}, "container_images": []string{"alpine:3"}})
	if err != nil {
		t.Fatal(err)
	}
	got := b.bakery.plan
	if got.Spec.Image.OS != "ubuntu-22.04" || got.Spec.Metal.CPUs != 3 {
		t.Errorf("the spec file is not read: %+v", got.Spec.Metal)
	}
	if strings.Join(got.Spec.Metal.Formats, " ") != "raw qcow2" {
		t.Errorf("formats are %v", got.Spec.Metal.Formats)
	}
	if last := got.Containers[len(got.Containers)-1]; last.Ref != "alpine:3" {
		t.Errorf("containers are %v", got.Containers)
	}
}

func TestCopyingDirectoriesThroughTheCommunicator(t *testing.T) {
	comm := &guestComm{ctx: context.Background(), guest: newGuest(local{}, false)}
	src, remote, back := t.TempDir(), filepath.Join(t.TempDir(), "remote"), filepath.Join(t.TempDir(), "back")
	for name, text := range map[string]string{"a.txt": "a", "sub/b.txt": "b", "skip/c.txt": "c"} {
		if err := os.MkdirAll(filepath.Join(src, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := comm.UploadDir(remote, src+"/", []string{"skip"}); err != nil {
		t.Fatal(err)
	}
	if err := comm.UploadDir(remote, src, nil); err != nil {
		t.Fatal(err)
	}
	if err := comm.DownloadDir(remote, back, nil); err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(src)
	for file, want := range map[string]string{"a.txt": "a", "sub/b.txt": "b", name + "/skip/c.txt": "c"} {
		if got, err := os.ReadFile(filepath.Join(back, file)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", file, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(back, "skip")); err == nil {
		t.Error("what was excluded was copied")
	}
}
