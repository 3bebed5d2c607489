package azure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
)

// azuriteVersion is Microsoft's own emulator of blob storage, from npm.
const azuriteVersion = "3.35.0"

// startAzurite installs the emulator into the user's cache, once, and starts it. It gives a container.
func startAzurite(t *testing.T) azurite {
	t.Helper()
	if testing.Short() {
		t.Skip("not in short mode: starts Azurite")
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("npm is not installed: the upload is not held against Azurite")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "dorunner-bake", "test", "azurite")
	program := filepath.Join(dir, "node_modules", ".bin", "azurite-blob")
	if _, err := os.Stat(program); err != nil {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(npm, "install", "--no-audit", "--no-fund", "--prefix", dir, "azurite@"+azuriteVersion).CombinedOutput(); err != nil {
			t.Fatalf("npm cannot install Azurite: %v\n%s", err, out)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--blobHost", "127.0.0.1", "--blobPort", port, "--location", t.TempDir(), "--skipApiVersionCheck", "--disableTelemetry", "--silent")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	// Azurite's account and key, which its documentation prints.
	const account = "devstoreaccount1"
	cred, err := blob.NewSharedKeyCredential(account, "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==")
	if err != nil {
		t.Fatal(err)
	}
	a := azurite{fmt.Sprintf("http://%s/%s/disks", addr, account), cred}
	values := sas.AccountSignatureValues{ExpiryTime: time.Now().Add(time.Hour).UTC(), ResourceTypes: (&sas.AccountResourceTypes{Container: true}).String(),
		Permissions: (&sas.AccountPermissions{Create: true}).String()}
	signed, err := values.SignWithSharedKey(cred)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, a.url+"?restype=container&"+signed.Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusCreated {
				return a
			}
			err = errors.New(resp.Status)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("Azurite makes no container: %v\n%s", err, log.String())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// azurite is a container in the emulator.
type azurite struct {
	url  string
	cred *blob.SharedKeyCredential
}

func (a azurite) pages(t *testing.T, name string) *pageblob.Client {
	t.Helper()
	c, err := pageblob.NewClientWithSharedKeyCredential(a.url+"/"+name, a.cred, nil)
	if err != nil {
		t.Error(err)
	}
	return c
}

// dying is a transport whose process is killed after so many writes of pages.
type dying struct {
	server interface{ Die() }
	left   atomic.Int32
}

func (d *dying) Do(req *http.Request) (*http.Response, error) {
	if req.URL.Query().Get("comp") == "page" && d.left.Add(-1) < 0 {
		d.server.Die()
		return nil, errors.New("killed")
	}
	return http.DefaultClient.Do(req)
}

// A disk goes into real blob storage byte for byte, without its zeros, and an upload that was killed goes on.
func TestUploadToAzurite(t *testing.T) {
	disks := startAzurite(t)
	const size = 256 << 20
	file := writeVHD(t, size)
	w := newWorld(t)
	t.Cleanup(w.server.Listen())
	w.spec.Azure.FromVHD, w.spec.Azure.TestBoot, w.spec.Azure.Endpoint = file, false, w.server.URL
	var pages *pageblob.Client
	w.server.SAS = func(disk string, size int64) string {
		if pages == nil { // creating it again would empty it
			pages = disks.pages(t, disk)
			if _, err := pages.Create(context.WithoutCancel(t.Context()), size, nil); err != nil {
				t.Errorf("page blob: %v", err)
			}
		}
		url, err := pages.GetSASURL(sas.BlobPermissions{Write: true}, time.Now().Add(time.Hour), nil)
		if err != nil {
			t.Errorf("SAS: %v", err)
		}
		return url
	}
	revoked := 0
	w.server.Revoked = func(string) { revoked++ }

	w.retry = policy.RetryOptions{MaxRetries: 1, RetryDelay: time.Millisecond} // this test is on the real clock
	d := &dying{server: w.server}
	d.left.Store(3)
	w.transport = d
	if r := w.bake(t.Context()); r.err == nil {
		t.Fatal("the killed upload worked")
	}
	w.server.Revive()
	w.transport = http.DefaultClient
	r := w.bake(t.Context())
	if r.err != nil {
		t.Fatalf("%v\n%s", r.err, w.log.String())
	}
	w.strict()
	if !strings.Contains(w.log.String(), "going on with an upload that was killed") || revoked != 1 {
		t.Errorf("revoked %d times; log:\n%s", revoked, w.log.String())
	}
	got, err := pages.DownloadStream(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	var there bytes.Buffer
	if _, err := there.ReadFrom(got.Body); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(there.Bytes(), want) {
		t.Error("the disk in the cloud is another one")
	}
	var written int64
	for pager := pages.NewGetPageRangesPager(nil); pager.More(); {
		page, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page.PageRange {
			written += *p.End - *p.Start + 1
		}
	}
	if written == 0 || written > 5*4096+footerLen { // the pieces of data and the footer
		t.Errorf("%d bytes of %d were written", written, size)
	}
}
