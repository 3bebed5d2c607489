package builder

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/templates"
)

// fakeDocker notes what it is asked, keeps a login in DOCKER_CONFIG as the real one does, and fails the first pull.
const fakeDocker = `#!/bin/sh
echo "docker $*" >>"$LOG"
case $1 in
login)
    read -r password
    [ "$password" = the-canary ] || exit 1
    echo "{\"auth\":\"$password\"}" >"$DOCKER_CONFIG/config.json"
    echo "$DOCKER_CONFIG" >"$LOG.config"
    ;;
pull)
    if [ ! -e "$LOG.failed" ]; then : >"$LOG.failed"; exit 1; fi
    [ -e "$DOCKER_CONFIG/config.json" ] || { echo "denied" >&2; exit 1; }
    case $2 in */gone*) exit 1 ;; esac
    echo "1: Pulling from $2"
    ;;
esac
`

func runPull(t *testing.T, password string, refs ...string) (log, out string, err error) {
	t.Helper()
	if f, err := os.CreateTemp("/run", ".dorunner-test-"); err != nil {
		t.Skipf("the login is kept in /run: %v", err)
	} else {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"docker": fakeDocker, "sleep": "#!/bin/sh\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text, err := templates.Read("guest/pull.sh")
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/bin/sh", append([]string{"-c", string(text), "pull.sh"}, refs...)...)
	logFile := filepath.Join(dir, "log")
	c.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "LOG="+logFile, "REGISTRY=registry.example", "REGISTRY_USER=reader")
	c.Stdin = strings.NewReader(password + "\n")
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	err = c.Run()
	data, _ := os.ReadFile(logFile)
	if config, _ := os.ReadFile(logFile + ".config"); len(config) > 0 {
		if _, err := os.Stat(strings.TrimSpace(string(config))); err == nil {
			t.Errorf("the login is left in %s", config)
		}
	}
	return string(data), b.String(), err
}

func TestPull(t *testing.T) {
	digest := "@" + cannedDigest
	log, out, err := runPull(t, "the-canary", "registry.example:5000/a:1", "registry.example:5000/b:2"+digest, "registry.example:5000/c"+digest)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := strings.Join([]string{
		"docker login --username reader --password-stdin registry.example",
		"docker pull registry.example:5000/a:1", // fails
		"docker pull registry.example:5000/a:1",
		"docker pull registry.example:5000/b:2" + digest,
		"docker tag registry.example:5000/b" + digest + " registry.example:5000/b:2",
		"docker pull registry.example:5000/c" + digest,
	}, "\n") + "\n"
	if log != want {
		t.Errorf("ran:\n%s\nwant:\n%s", log, want)
	}
	if strings.Contains(log+out, "the-canary") {
		t.Error("the password was printed or was an argument")
	}
}

func TestPullSaysWhatItCouldNotGet(t *testing.T) {
	log, out, err := runPull(t, "the-canary", "x/gone:1", "x/never:1")
	if err == nil || !strings.Contains(out, "x/gone:1 cannot be pulled") || strings.Contains(log, "never") || strings.Count(log, "pull x/gone:1") != 3 {
		t.Errorf("%v\n%s\n%s", err, out, log)
	}
	if _, out, err := runPull(t, "wrong", "x/a:1"); err == nil || !strings.Contains(out, "logging in to the registry registry.example as reader failed") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestLayersAreCounted(t *testing.T) {
	var b bytes.Buffer
	p, _ := NewProgress(&b, ProgressOptions{Kind: "plain"})
	c := &layerCount{progress: p}
	for l := range strings.Lines(`latest: Pulling from dataopslive/dataops-runner
a1: Already exists
b2: Pulling fs layer
c3: Pulling fs layer
b2: Verifying Checksum
b2: Download complete
b2: Pull complete
c3: Pull complete
Digest: sha256:0
Status: Downloaded newer image for dataopslive/dataops-runner:latest
`) {
		c.line(strings.TrimSpace(l))
	}
	if got := b.String(); !strings.HasSuffix(got, "dataopslive/dataops-runner: 3 of 3 layers\n") {
		t.Errorf("told:\n%s", got)
	}
}
