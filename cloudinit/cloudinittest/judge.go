// Package cloudinittest asks the real cloud-init, Debian's package, what it makes of user-data. The package is unpacked by
// .ci/fetch-cloud-init and never installed: installed, it would set the developer's machine up anew at its next boot.
package cloudinittest

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

//go:embed judge.py
var judge string

// Version is the cloud-init that is asked.
const Version = "22.4.2"

// Python is where the package's modules are; the test is skipped where there are none. DORUNNER_CLOUD_INIT names the
// directory of another release, unpacked, to be asked instead.
func Python(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("asks the real cloud-init")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	root := filepath.Join(cache, "dorunner-bake", "tools", "cloud-init")
	if other := os.Getenv("DORUNNER_CLOUD_INIT"); other != "" {
		root = other
	}
	dir := filepath.Join(root, "usr", "lib", "python3", "dist-packages")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("cloud-init is not there: run .ci/fetch-cloud-init")
	}
	return dir
}

// Question is one thing to ask: walk, merge, schema or jinja; judge.py says what the answers are.
type Question struct {
	Verb string
	Data []byte
}

// Ask puts all questions to one cloud-init and gives its answers in their order.
func Ask(t testing.TB, questions ...Question) []json.RawMessage {
	t.Helper()
	lib := Python(t)
	pairs := [][2]string{}
	for _, q := range questions {
		pairs = append(pairs, [2]string{q.Verb, base64.StdEncoding.EncodeToString(q.Data)})
	}
	in, err := json.Marshal(pairs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "-W", "ignore", "-c", judge)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PYTHONPATH="+lib, "TMPDIR="+cmd.Dir)
	cmd.Stdin = bytes.NewReader(in)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("cloud-init: %v\n%s", err, stderr.Bytes())
	}
	var out []json.RawMessage
	if err := json.Unmarshal(stdout.Bytes(), &out); err != nil || len(out) != len(questions) {
		t.Fatalf("cloud-init gave %d answers, %v\n%s", len(out), err, stdout.Bytes())
	}
	return out
}

// Schema runs the program `cloud-init schema` itself over a file.
func Schema(t testing.TB, data []byte) error {
	t.Helper()
	lib := Python(t)
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "-W", "ignore", "-m", "cloudinit.cmd.main", "schema", "--config-file", file)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PYTHONPATH="+lib)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Logf("%s", out)
	}
	return err
}
