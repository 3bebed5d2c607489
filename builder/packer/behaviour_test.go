package packer

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/builder/azure/azuretest"
	"github.com/dorunner/dorunner-bake/builder/packer/packertest"
	"github.com/dorunner/dorunner-bake/builder/ssh"
)

// TestPlugin is the program itself: what Packer asks of every plugin.
func TestPlugin(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the plugin")
	}
	dir := t.TempDir()
	built := packertest.Tool(t, ".", "packer-plugin-dorunner", "../../cmd/packer-plugin-dorunner")
	text, err := os.ReadFile(built)
	plugin := filepath.Join(dir, "packer-plugin-dorunner")
	if err == nil {
		err = os.WriteFile(plugin, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	sdc, err := exec.Command("go", "tool", "-n", "packer-sdc").Output()
	if err != nil {
		t.Fatal(err)
	}
	check := exec.Command(strings.TrimSpace(string(sdc)), "plugin-check", filepath.Base(plugin)) // it takes no path
	check.Dir = dir
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("packer-sdc plugin-check: %v\n%s", err, out)
	}
	var fastest time.Duration
	for range 3 {
		began := time.Now()
		out, err := exec.Command(plugin, "describe").Output()
		if took := time.Since(began); fastest == 0 || took < fastest {
			fastest = took
		}
		var d struct{ Builders, Provisioners, Datasources []string }
		if err == nil {
			err = json.Unmarshal(out, &d)
		}
		if err != nil || strings.Join(d.Builders, " ") != "aws azure metal" || len(d.Provisioners) != 1 || len(d.Datasources) != 1 {
			t.Fatalf("describe: %v\n%s", err, out)
		}
	}
	t.Logf("describe answers in %v", fastest)
	if fastest > 150*time.Millisecond {
		t.Errorf("describe takes %v, at most 150 ms are promised", fastest)
	}
}

// TestAWSThroughPacker is what users of Packer rely on, with the builder whose machines cost nothing here.
func TestAWSThroughPacker(t *testing.T) {
	whole := newTool(t)
	// sub runs a part with an account of its own.
	sub := func(name string, f func(t *testing.T, p *tool, a *account)) {
		t.Run(name, func(t *testing.T) {
			p := whole.on(t)
			f(t, p, p.account())
		})
	}

	sub("validate tells every problem and where it is", func(t *testing.T, p *tool, a *account) {
		spec := filepath.Join(p.dir, "wrong.yaml")
		if err := os.WriteFile(spec, []byte("aws:\n  share: [abc]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		dir := p.template("", a.source+"  instance_type = \"t3a.gigantic\"\n  subnet_id = \"subnet\"\n  ssh_interface = \"both\"\n  spec_file = \""+spec+"\"\n")
		out := p.run(1, "validate", dir)
		p.says(out, "build.pkr.hcl line 16", "5 error(s)", "instance_type", "t3a.gigantic", "subnet_id", "ssh_interface", "wrong.yaml:2:11", "^~~")
		out = p.run(1, "validate", p.template("", a.source+"  flavour = \"large\"\n"))
		p.says(out, "line 21", `An argument named "flavour" is not expected here`)
		out = p.run(0, "validate", p.template("", a.source+"  ssh_pty = true\n"))
		p.says(out, "ssh_pty has no effect with this builder")
		out = p.run(1, "validate", p.template("", a.source+"  communicator = \"winrm\"\n"))
		p.says(out, `"winrm" is not possible`)
	})

	sub("a build, its data and its artifact", func(t *testing.T, p *tool, a *account) {
		log := filepath.Join(p.dir, "builds.json")
		dir := p.template(fmt.Sprintf(`
  provisioner "shell" {
    inline = ["echo on ${build.ID} at ${build.Host}:${build.Port} as ${build.User} from ${build.SourceImage} ${build.SourceImageName}"]
  }
  provisioner "shell" {
    inline = ["echo the word is ${var.password}"]
  }
  provisioner "file" {
    source      = %q
    destination = %q
  }
  post-processor "manifest" {
    output = %q
  }
`, filepath.Join("testdata", "packer", "go.mod"), a.machine.Dir+"/there/", log), a.source+"  ami_regions = [\"eu-west-1\"]\n  tags = { team = \"data\" }\n")
		// Packer runs elsewhere.
		wd, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "build.pkr.hcl")
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, []byte(strings.Replace(string(text), `"testdata/`, `"`+wd+`/testdata/`, 1)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		out := p.run(0, "build", "-timestamp-ui", dir)
		images := a.Images()
		if len(images) != 2 {
			t.Fatalf("images %v\n%s", images, out)
		}
		slices.SortFunc(images, func(x, y awstest.Image) int { return -strings.Compare(x.Region, y.Region) }) // home first
		p.says(out, "at 127.0.0.1:", "as ubuntu from ami-", "ubuntu-focal-20.04-amd64-server-20250301", "the word is <sensitive>", "images were created:", "us-east-1: "+images[0].ID)
		if strings.Contains(out, "open sesame") {
			t.Error("a sensitive variable is shown")
		}
		if !regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT[\d:]+Z?\S*: ==> dorunner-aws.runner: `).MatchString(out) {
			t.Errorf("no time stamps:\n%s", out)
		}
		if _, err := os.Stat(filepath.Join(a.machine.Dir, "there", "go.mod")); err != nil {
			t.Error("the file provisioner:", err)
		}
		if images[0].Tags["team"] != "data" {
			t.Errorf("tags %v", images[0].Tags)
		}
		var builds struct {
			Builds []struct {
				BuilderType string `json:"builder_type"`
				ArtifactID  string `json:"artifact_id"`
			}
		}
		if text, err = os.ReadFile(log); err == nil {
			err = json.Unmarshal(text, &builds)
		}
		want := "us-east-1:" + images[0].ID + ",eu-west-1:" + images[1].ID
		if err != nil || len(builds.Builds) != 1 || builds.Builds[0].ArtifactID != want || builds.Builds[0].BuilderType != "dorunner-aws" {
			t.Errorf("the manifest has %+v, want %s (%v)", builds, want, err)
		}
		if _, err := os.Stat(filepath.Join(p.dir, "output-runner", "manifest.json")); err != nil {
			t.Error(err)
		}
		a.onlyImages(t, 2)

		// A build with provisioners is one of a kind: it neither is nor becomes anybody's image of the plan.
		p.says(p.run(0, "build", dir), "images were created:")
		a.onlyImages(t, 4)
	})

	sub("an image of the plan is the result, unless forced", func(t *testing.T, p *tool, a *account) {
		dir := p.template("", a.source)
		p.run(0, "build", dir)
		p.says(p.run(0, "build", dir), "existed already", "With -force it is baked anew")
		a.onlyImages(t, 1)
		out := p.run(0, "-machine-readable", "build", "-force", dir)
		if !regexp.MustCompile(`(?m)^\d+,dorunner-aws.runner,artifact,0,id,us-east-1:ami-`).MatchString(out) {
			t.Errorf("not machine-readable:\n%s", out)
		}
		a.onlyImages(t, 2)
	})

	sub("an artifact that is not kept is destroyed", func(t *testing.T, p *tool, a *account) {
		p.run(0, "build", p.template(`
  post-processor "artifice" {
    files               = ["*.hcl"]
    keep_input_artifact = false
  }
`, a.source+"  ami_regions = [\"eu-west-1\"]\n"))
		a.onlyImages(t, 0)
	})

	failing := `
  provisioner "shell" {
    inline = ["echo about to fail", "exit 7"]
  }
  error-cleanup-provisioner "shell" {
    inline = ["echo cleaned up by hand"]
  }
`
	for _, tt := range []struct {
		name          string
		answers       []string
		args          []string
		cleaned, left bool
	}{
		{name: "cleanup", cleaned: true},
		{name: "abort", left: true},
		{name: "run-cleanup-provisioner", cleaned: true, left: true},
		{name: "ask", answers: []string{"r", "what", "c"}, cleaned: true},
		{name: "ask", answers: []string{"a"}, left: true},
	} {
		sub("on-error="+tt.name, func(t *testing.T, p *tool, a *account) {
			args := []string{"build", "-on-error=" + tt.name, p.template(failing, a.source)}
			var out string
			if tt.answers == nil {
				out = p.run(1, args...)
			} else {
				out = p.typed(1, "build may fail even if retry succeeds)?", tt.answers, args...)
			}
			p.says(out, "about to fail", "exit status: 7")
			if got := strings.Contains(out, "cleaned up by hand"); got != tt.cleaned {
				t.Errorf("the error-cleanup-provisioner ran: %v\n%s", got, out)
			}
			if tt.name == "ask" && tt.answers[0] == "r" && strings.Count(out, "about to fail") < 2 {
				t.Errorf("the step was not retried:\n%s", out)
			}
			instances := 0
			for _, l := range a.Left() {
				if strings.HasPrefix(l, "instance") || strings.Contains(l, " i-") {
					instances++
				}
			}
			if (instances > 0) != tt.left {
				t.Errorf("left behind: %v\n%s", a.Left(), out)
			}
			if tt.left {
				p.says(out, "left as it is: aws instance")
			} else {
				a.onlyImages(t, 0)
			}
		})
	}

	sub("debug asks before each step", func(t *testing.T, p *tool, a *account) {
		out := p.typed(0, "Press enter to continue.", []string{""}, "build", "-debug", p.template("", a.source))
		p.says(out, "Pausing before launch.", "Pausing before distribute.", "images were created")
	})

	sub("ctrl-c leaves nothing", func(t *testing.T, p *tool, a *account) {
		var once sync.Once
		p.onLine = func(line string) {
			if strings.Contains(line, "now it hangs") {
				once.Do(p.interrupt)
			}
		}
		began := time.Now()
		out := p.run(1, "build", p.template(`
  provisioner "shell" {
    inline = ["echo now it hangs", "sleep 60"]
  }
`, a.source))
		p.says(out, "Cancelling build")
		if took := time.Since(began); took > 45*time.Second {
			t.Errorf("it took %v\n%s", took, out)
		}
		a.onlyImages(t, 0)
	})

	sub("a bastion and a key of the user's own", func(t *testing.T, p *tool, a *account) {
		jump := packertest.NewBastion(t)
		out := p.run(0, "build", p.template("", a.source+fmt.Sprintf(`  ssh_bastion_host             = "127.0.0.1"
  ssh_bastion_port             = %d
  ssh_bastion_username         = "jump"
  ssh_bastion_private_key_file = %q
  ssh_username                 = "somebody"
  ssh_interface                = "private_ip"
  ssh_host                     = "127.0.0.1"
`, jump.Port, jump.KeyFile)))
		p.says(out, "images were created")
		if users := a.machine.Users(); len(users) == 0 || users[0] != "somebody" || jump.Passed() == 0 {
			t.Errorf("logged in: %v, through the bastion: %d", users, jump.Passed())
		}
	})
}

// TestProvisionerThroughPacker runs it on the machine of a builder that is not ours.
func TestProvisionerThroughPacker(t *testing.T) {
	p := newTool(t)
	m := packertest.NewMachine(t)
	host, err1 := ssh.NewKey("host")
	client, err2 := ssh.NewKey("client")
	key := filepath.Join(p.dir, "key")
	err3 := os.WriteFile(key, []byte(client.PrivatePEM), 0o600)
	err4 := m.Boot(fmt.Sprintf("ssh_keys: {ed25519_private: %q}\nssh_authorized_keys: [%q]\n", host.PrivatePEM, client.Authorized))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	out := p.run(0, "build", p.template(fmt.Sprintf(`
  provisioner "dorunner" {
    firstboot        = %q
    output_directory = "provisioned"
    runner {
      concurrent = 4
    }
  }
`, p.boot), fmt.Sprintf(`null   ssh_host             = "127.0.0.1"
  ssh_port             = %d
  ssh_username         = "ubuntu"
  ssh_private_key_file = %q
`, m.Port, key)))
	p.says(out, "==> null.runner: seal done")
	if got := p.manifest("provisioned"); got.Docker != "28.1.1" || got.Platform != "nocloud" || len(got.Containers) != 2 {
		t.Errorf("manifest %+v", got)
	}
	p.says(p.run(1, "validate", p.template("\n  provisioner \"dorunner\" {\n    os = \"plan9\"\n  }\n", "null   communicator = \"none\"\n")), "image.os", "plan9")
}

// TestUserDataThroughPacker writes user-data to a file, with Packer's own file builder.
func TestUserDataThroughPacker(t *testing.T) {
	p := newTool(t)
	example, err := filepath.Abs("../../examples/packer/user-data.pkr.hcl")
	if err != nil {
		t.Fatal(err)
	}
	p.run(0, "build", example)
	text, err := os.ReadFile(filepath.Join(p.dir, "user-data.yaml"))
	if err != nil || !strings.HasPrefix(string(text), "#cloud-config\n") || !strings.Contains(string(text), "ssm:/dorunner/token") || !strings.Contains(string(text), "ssm:/dorunner/vault.salt") {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestAzureThroughPacker bakes a gallery version against the test subscription; a failing bake leaves nothing.
func TestAzureThroughPacker(t *testing.T) {
	p := newTool(t)
	m := packertest.NewMachine(t)
	server := azuretest.New()
	server.Add("/subscriptions/"+azuretest.Subscription+"/resourceGroups/rg", map[string]any{"location": "westeurope"})
	var current string
	server.Booted = func(vm string) {
		current = vm
		if err := m.Boot(server.CustomData(vm), server.Keys(vm)...); err != nil {
			t.Error(err)
		}
	}
	m.PowerOff = func() { server.PowerOff(current) }
	t.Cleanup(server.Listen())
	for k, v := range server.Env() {
		p.setenv(k, v)
	}
	p.setenv("AZURE_RESOURCE_MANAGER_ENDPOINT", server.URL, "AZURE_SUBSCRIPTION_ID", azuretest.Subscription)
	source := fmt.Sprintf(`dorunner-azure   resource_group_name        = "rg"
  gallery_name               = "images"
  gallery_image_name         = "runner"
  allowed_inbound_ip_address = "198.51.100.7/32"
  ssh_port                   = %d
  firstboot                  = %q
`, m.Port, p.boot)
	left := func() (list []string) {
		for _, id := range server.Left() {
			if !strings.HasSuffix(id, "/resourceGroups/rg") {
				list = append(list, id)
			}
		}
		return list
	}

	out := p.run(1, "build", p.template("\n  provisioner \"shell\" {\n    inline = [\"exit 3\"]\n  }\n", source))
	if l := left(); len(l) > 0 {
		t.Errorf("left behind: %v\n%s", l, out)
	}
	out = p.run(0, "build", p.template("\n  provisioner \"shell\" {\n    inline = [\"echo as ${build.User} from ${build.SourceImage}\"]\n  }\n", source))
	p.says(out, "as dorunner-bake from ", "images were created:", "westeurope: /subscriptions/", "/galleries/images/images/runner/versions/")
	if l := left(); len(l) != 3 { // gallery, definition, version
		t.Errorf("the subscription holds %v\n%s", l, out)
	}
	for _, u := range server.Unknown() {
		t.Errorf("unknown call: %s", u)
	}
}

// onlyImages: so many finished images with their snapshots, and nothing else.
func (a *account) onlyImages(t *testing.T, want int) {
	t.Helper()
	own := map[string]bool{}
	for _, i := range a.Images() {
		own[i.ID] = true
		for _, s := range i.Snapshots {
			own[s] = true
		}
		if i.Tags["dorunner:expires"] != "" || i.State != "available" {
			t.Errorf("image %s is unfinished", i.ID)
		}
	}
	if len(a.Images()) != want {
		t.Errorf("%d images, want %d: %+v", len(a.Images()), want, a.Images())
	}
	for _, l := range a.Left() {
		if !own[strings.Fields(l)[1]] {
			t.Errorf("left behind: %s", l)
		}
	}
}

// TestInterferenceThroughPacker fails and cancels a build at its N-th call: nothing stays, and there is an artifact
// exactly where there is no error. Where time is short, every eleventh call.
func TestInterferenceThroughPacker(t *testing.T) {
	whole := newTool(t)
	stride := 11
	if os.Getenv("DORUNNER_SOAK") != "" {
		stride = 1
	}
	for _, tt := range []struct {
		name  string
		react awstest.Reaction
		stop  bool
	}{
		{"fails", awstest.Reaction{Error: &awstest.Error{Status: 403, Code: "UnauthorizedOperation", Message: "You are not authorized to perform this operation."}}, false},
		{"cancelled", awstest.Reaction{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := whole.on(t)
			for n := 2; ; n += stride {
				a := p.account()
				var mu sync.Mutex
				reached := false
				a.OnCall = func(c awstest.Call) awstest.Reaction {
					if c.N != n {
						return awstest.Reaction{}
					}
					mu.Lock()
					reached = true
					mu.Unlock()
					if tt.stop {
						p.interrupt()
					}
					return tt.react
				}
				out, status := p.start(exec.Command(p.packer, "build", p.template("", a.source+"  ami_regions = [\"eu-west-1\"]\n")))
				made := len(a.Images()) > 0
				if (status == 0) != made || made != strings.Contains(out, "runner: images were created:\nus-east-1: ami-") {
					t.Errorf("call %d: exit status %d, images %v\n%s", n, status, a.Images(), out)
				}
				want := 0
				if made {
					want = 2
				}
				a.onlyImages(t, want)
				if t.Failed() {
					t.Fatalf("call %d\n%s", n, out)
				}
				mu.Lock()
				ended := !reached
				mu.Unlock()
				if ended {
					t.Logf("a build makes %d calls", n-1)
					break
				}
			}
		})
	}
}
