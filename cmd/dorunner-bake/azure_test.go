package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/azure/azuretest"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// TestAzureScripts runs one script per promise against a subscription of its own, over HTTP and with the credentials
// of a managed identity.
func TestAzureScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", "azure"),
		UpdateScripts: *update,
		Cmds:          map[string]func(*testscript.TestScript, bool, []string){"code": code, "subscription": subscription, "vhd": vhd, "left": leftInAzure},
		Setup: func(e *testscript.Env) error {
			server := azuretest.New()
			server.Add("/subscriptions/"+azuretest.Subscription+"/resourceGroups/rg", map[string]any{"location": "westeurope"})
			e.Defer(server.Listen())
			e.Defer(func() {
				for _, c := range server.Unknown() {
					t.Errorf("unknown call: %s", c)
				}
			})
			server.Console = func(string) string { return runner.Report{State: runner.Online, Runner: "r"}.ConsoleLine() }
			e.Values["subscription"] = server
			self, err := os.Executable()
			for k, v := range server.Env() {
				e.Setenv(k, v)
			}
			for k, v := range map[string]string{"SELF": self, "DORUNNER_STATE_DIR": filepath.Join(e.WorkDir, "state"), "HOME": e.WorkDir,
				"AZURE_RESOURCE_MANAGER_ENDPOINT": server.URL, "AZURE_SUBSCRIPTION_ID": azuretest.Subscription} {
				e.Setenv(k, v)
			}
			return err
		},
	})
}

// subscription changes how the subscription behaves: subscription KEY=VALUE...
func subscription(ts *testscript.TestScript, neg bool, args []string) {
	server := ts.Value("subscription").(*azuretest.Server)
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "allow": // these actions alone
			server.Allow = strings.Split(value, ",")
		case "fail": // a call, with a code
			api, code, _ := strings.Cut(value, ":")
			server.Faults = []*azuretest.Fault{{API: api, Code: code, Async: true}}
		case "subnet": // of the user's
			id := "/subscriptions/" + azuretest.Subscription + "/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/" + value
			server.Add(id, map[string]any{"properties": map[string]any{"subnets": []any{map[string]any{"name": "runners", "id": id + "/subnets/runners"}}}})
		case "vault":
			server.Add("/subscriptions/"+azuretest.Subscription+"/resourceGroups/rg/providers/Microsoft.KeyVault/vaults/"+value, map[string]any{})
		case "gone": // what is the user's again
			server.Remove("/resourceGroups/rg/providers/Microsoft.KeyVault/vaults/" + value)
			server.Remove("/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/" + value)
		case "quota":
			server.SetUsage("cores", 100, 100)
		case "abandoned": // a network of a bake that died two days ago
			server.Add("/subscriptions/"+azuretest.Subscription+"/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/"+value, map[string]any{
				"tags": map[string]string{"dorunner-bake-id": "20260101-000000-0000aa", "dorunner-plan": "p", "dorunner-expires": time.Now().AddDate(0, 0, -2).UTC().Format(time.RFC3339)}})
		default:
			ts.Fatalf("unknown setting %s", key)
		}
	}
}

// vhd writes a disk of the metal target: vhd FILE PLATFORM
func vhd(ts *testscript.TestScript, neg bool, args []string) {
	file := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
	ts.Check(writeDisk(file))
	m, err := json.Marshal(builder.Manifest{PlanHash: "abc", Platform: args[1], BakeID: "20260101-000000-000001"})
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(filepath.Dir(file), "manifest.json"), m, 0o600))
}

// writeDisk writes a fixed VHD with next to nothing in it.
func writeDisk(file string) error {
	const size = 32 << 20
	disk := make([]byte, size+512)
	copy(disk, "boot")
	copy(disk[size:], "conectix")
	binary.BigEndian.PutUint64(disk[size+48:], size)
	binary.BigEndian.PutUint32(disk[size+60:], 2)
	return os.WriteFile(file, disk, 0o600)
}

// left prints what the subscription holds beside the group that was there before.
func leftInAzure(ts *testscript.TestScript, neg bool, args []string) {
	var list []string
	for _, id := range ts.Value("subscription").(*azuretest.Server).Left() {
		if !strings.HasSuffix(id, "/resourceGroups/rg") {
			list = append(list, id)
		}
	}
	if neg && len(list) > 0 {
		ts.Fatalf("left behind: %s", strings.Join(list, ", "))
	}
	_, _ = fmt.Fprintln(ts.Stdout(), strings.Join(list, "\n"))
}

// TestAzureKilled kills the program at one call after the other, as kill -9 does. Either gc then leaves nothing, or the next
// bake goes on, and nothing but its version stays.
func TestAzureKilled(t *testing.T) {
	program, err := exec.LookPath("dorunner-bake")
	if err != nil {
		t.Fatal(err)
	}
	step, last := 3, 0
	switch {
	case testing.Short():
		step = 11
	case os.Getenv("DORUNNER_SOAK") != "":
		step = 1
	}
	for n, killed := 1, true; killed; n += step {
		for _, again := range []bool{false, true} {
			server := azuretest.New()
			rg := "/subscriptions/" + azuretest.Subscription + "/resourceGroups/rg"
			server.Add(rg, map[string]any{"location": "westeurope"})
			stop := server.Listen()
			dir := t.TempDir()
			if err := writeDisk(filepath.Join(dir, "disk.vhd")); err != nil {
				t.Fatal(err)
			}
			command := func(args ...string) *exec.Cmd {
				cmd := exec.Command(program, args...)
				cmd.Env = append(os.Environ(), "DORUNNER_STATE_DIR="+filepath.Join(dir, "state"), "HOME="+dir,
					"AZURE_RESOURCE_MANAGER_ENDPOINT="+server.URL, "AZURE_SUBSCRIPTION_ID="+azuretest.Subscription)
				for k, v := range server.Env() {
					cmd.Env = append(cmd.Env, k+"="+v)
				}
				return cmd
			}
			bake := []string{"azure", "--resource-group", "rg", "--gallery", "images", "--definition", "runner", "--replicate-to", "northeurope,uksouth",
				"--from-vhd", filepath.Join(dir, "disk.vhd"), "--out", filepath.Join(dir, "out")}
			cmd := command(bake...)
			started := make(chan struct{})
			server.OnCall = func(c azuretest.Call) {
				if <-started; c.N == n {
					_ = cmd.Process.Kill() // the call takes effect all the same
				}
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			close(started)
			_ = cmd.Wait()
			killed = !cmd.ProcessState.Exited()
			server.OnCall = nil
			want := map[string]bool{rg: true}
			if again {
				out, err := command(bake...).CombinedOutput()
				if err != nil {
					t.Fatalf("killed at call %d, baked again: %v\n%s", n, err, out)
				}
				id := strings.TrimSpace(string(out[strings.LastIndex(string(out), "/subscriptions/"):]))
				definition, _, _ := strings.Cut(id, "/versions/")
				gallery, _, _ := strings.Cut(definition, "/images/runner")
				want[id], want[definition], want[gallery] = true, true, true
			}
			if out, err := command("gc", "--yes").CombinedOutput(); err != nil {
				t.Errorf("killed at call %d: gc: %v\n%s", n, err, out)
			}
			for _, id := range server.Left() {
				// What was finished when the program was killed stays.
				if !want[id] && (again || server.Tags(id)["dorunner-expires"] != "" || !strings.Contains(id, "/galleries/")) {
					t.Errorf("killed at call %d, baked again %v: left %s, tagged %v", n, again, id, server.Tags(id))
				}
			}
			if u := server.Unknown(); len(u) > 0 {
				t.Errorf("unknown calls: %v", u)
			}
			stop()
			if t.Failed() {
				return
			}
		}
		last = n
	}
	if last < 25 {
		t.Errorf("a bake made no %d calls", last)
	}
}
