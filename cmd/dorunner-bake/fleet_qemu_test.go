//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
)

// regional is a region's services as machines in QEMU reach them: by their own names, over TLS. An image of theirs
// has to be customized with the script.
type regional struct{ script string }

// serveRegion answers for the services of us-east-1 until the test ends.
func serveRegion(t *testing.T, account *awstest.Server) regional {
	t.Helper()
	var names []string
	for _, service := range []string{"ssm", "autoscaling", "monitoring"} {
		names = append(names, service+".us-east-1.amazonaws.com")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test account"}, DNSNames: names, NotBefore: time.Now().AddDate(0, 0, -1), NotAfter: time.Now().AddDate(0, 0, 1),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:443") // where the names lead, seen from a machine
	if err != nil {
		t.Skipf("the machines' way to the services: %v", err)
	}
	web := &http.Server{Handler: account, ReadHeaderTimeout: time.Minute, TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}}
	go func() { _ = web.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = web.Close() })
	return regional{fmt.Sprintf("#!/bin/sh -e\necho '%s %s' >>/etc/hosts\nmkdir -p /etc/ssl/certs\ncat >/etc/ssl/certs/test-account.pem <<'EOF'\n%sEOF\n", awstest.HostInGuest, strings.Join(names, " "),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// fleetInQEMU has two clones of an image form a group, and one of them leave it while it runs a job: the job finishes,
// and GitLab knows one machine. What is left is left to be destroyed, and is.
func fleetInQEMU(t *testing.T, account *awstest.Server, web string, gl *gitlabtest.Server, gitlab, dir, ami string, run func(...string) string) {
	t.Helper()
	const token, group = "glrt-t3_sharedbytwoclones", "dorunner-dublin"
	gl.AddRunner(gitlabtest.Runner{Token: token, Tags: []string{"dublin"}})
	cfg := sdk.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("AKIDTEST", "secret", ""), BaseEndpoint: &web}
	if _, err := ssm.NewFromConfig(cfg).PutParameter(t.Context(), &ssm.PutParameterInput{Name: sdk.String("/dorunner/token"), Value: sdk.String(token), Type: types.ParameterTypeSecureString}); err != nil {
		t.Fatal(err)
	}
	spec := filepath.Join(dir, "fleet.yaml")
	if err := os.WriteFile(spec, fmt.Appendf(nil, `image: {os: debian-12, disk_gb: 8}
runner: {name: dublin, url: %q, token: "ssm:/dorunner/token", register: api, concurrent: 1}
fleet: {max: 2, desired: 2, image: %s, instance_profile: create, drain_timeout: 10m}
`, gitlab, ami), 0o600); err != nil {
		t.Fatal(err)
	}
	managers := func() map[string]gitlabtest.Manager {
		for _, r := range gl.Runners() {
			if r.Token == token {
				return r.Managers
			}
		}
		return nil
	}
	wait := func(what string, limit time.Duration, ok func() bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		for !ok() {
			select {
			case <-time.After(500 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("%s: not within %s; members %v, managers %v", what, limit, account.Members("us-east-1", group), managers())
			}
		}
	}
	began := time.Now()
	run("fleet", "apply", "aws", "--allow-small", "-f", spec, "--yes")
	if n := account.Members("us-east-1", group); n["InService"] != 2 || len(managers()) != 2 {
		t.Fatalf("members %v, managers %v", n, managers())
	}
	var jobs []int
	for range 2 {
		jobs = append(jobs, gl.QueueJob(gitlabtest.Job{Tags: []string{"dublin"}, Script: []string{"sleep 30"}}))
	}
	wait("a job on each", 2*time.Minute, func() bool {
		a, _ := gl.Job(jobs[0])
		b, _ := gl.Job(jobs[1])
		return a.State == "running" && b.State == "running" && a.SystemID != b.SystemID
	})
	run("fleet", "scale", "aws", "--allow-small", "1", "-f", spec, "--no-wait")
	wait("one machine", 4*time.Minute, func() bool {
		n := account.Members("us-east-1", group)
		return n["InService"] == 1 && len(n) == 2 // and the key desired
	})
	for _, id := range jobs {
		if j, _ := gl.Job(id); j.State != "success" {
			t.Errorf("job %d: %s %s\n%s", id, j.State, j.Reason, j.Trace)
		}
	}
	if m := managers(); len(m) != 1 {
		t.Errorf("GitLab knows %v", m)
	}
	t.Logf("two clones formed a group, and one of them left it with its job done: %s", time.Since(began).Round(time.Second))
	run("fleet", "destroy", "aws", "--allow-small", "-f", spec, "--yes")
	if m := managers(); len(m) != 0 {
		t.Errorf("after the group: %v", m)
	}
}
