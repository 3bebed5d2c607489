package azure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/ssh"
	"github.com/dorunner/dorunner-bake/templates"
)

// How long a machine from a new image may take to tell how its selftest went.
const selftestTime = 10 * time.Minute

// maxConsole bounds what is read of a serial console.
const maxConsole = 4 << 20

// TestBoot starts a machine from the image and reads from its serial console how its selftest went. It has no public
// address: nothing needs to reach it.
func (c *Cloud) TestBoot(ctx context.Context, env *builder.Env, a builder.Artifact) error {
	if !c.spec.TestBoot {
		return nil
	}
	mark := "dorunner-selftest " + env.BakeID
	data, err := templates.Render("azure/test-boot.yaml", map[string]string{"Mark": mark})
	if err != nil {
		return err
	}
	key, err := ssh.NewKey("dorunner-bake " + env.BakeID) // Azure makes no machine without one; nobody logs in
	if err != nil {
		return err
	}
	if err := c.ensureSubnet(ctx, env); err != nil {
		return err
	}
	nic, err := c.networkInterface(ctx, env, "test-nic", nil, nil)
	if err != nil {
		return err
	}
	image := a.Images[len(a.Images)-1].ID
	c.test, err = c.machine(ctx, env, machineSpec{name: "test", nic: value(nic.ID), customData: data, key: key.Authorized, trusted: c.spec.TrustedLaunch,
		image: &armcompute.ImageReference{ID: &image}})
	if err != nil {
		return err
	}
	env.Progress.Info("waiting for the selftest of %s", c.test.name)
	began := time.Now()
	for {
		text, err := c.serial(ctx, c.test.name)
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		before, verdict, told := strings.Cut(text, mark+": ")
		switch {
		case told && strings.HasPrefix(verdict, "passed"):
			// It is gone by the time that the ledger asks.
			_, _ = c.api.vms.BeginDelete(ctx, c.spec.ResourceGroup, c.test.name, nil)
			return nil
		case told:
			return fmt.Errorf("the image's selftest failed on %s:\n%s", c.test.name, lastLines(before, 20))
		case time.Since(began) > selftestTime:
			return fmt.Errorf("a machine from the image did not tell its selftest's result on the console within %v", selftestTime)
		}
		if err := sleep(ctx, pause(time.Since(began))); err != nil {
			return err
		}
	}
}

// ConsoleTail is what the machine under way printed last, for whoever looks into a failure.
func (c *Cloud) ConsoleTail(ctx context.Context, _ *builder.Env) string {
	n := c.test.name
	if n == "" {
		n = c.vm.name
	}
	if n == "" {
		return ""
	}
	text, err := c.serial(ctx, n)
	if err != nil {
		return ""
	}
	return lastLines(text, 40)
}

// serial reads a machine's serial console from boot diagnostics.
func (c *Cloud) serial(ctx context.Context, vm string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r, err := c.api.vms.RetrieveBootDiagnosticsData(ctx, c.spec.ResourceGroup, vm, nil)
	if err != nil {
		return "", explain(err)
	}
	if r.SerialConsoleLogBlobURI == nil {
		return "", errors.New("no serial console yet")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, *r.SerialConsoleLogBlobURI, nil)
	if err != nil {
		return "", err
	}
	do := http.DefaultClient.Do
	if c.Transport != nil {
		do = c.Transport.Do
	}
	resp, err := do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("serial console: %s", resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxConsole))
	return string(text), err
}

// lastLines are the last n lines of a text, without trailing space.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\r\n "), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
