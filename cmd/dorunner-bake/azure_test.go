package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
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
	const size = 32 << 20
	disk := make([]byte, size+512)
	copy(disk, "boot")
	copy(disk[size:], "conectix")
	binary.BigEndian.PutUint64(disk[size+48:], size)
	binary.BigEndian.PutUint32(disk[size+60:], 2)
	ts.Check(os.WriteFile(file, disk, 0o600))
	m, err := json.Marshal(builder.Manifest{PlanHash: "abc", Platform: args[1], BakeID: "20260101-000000-000001"})
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(filepath.Dir(file), "manifest.json"), m, 0o600))
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
