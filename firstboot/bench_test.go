package firstboot_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
)

// byHand is the documented procedure, as a shell script: vault, register, three edits, run.
const byHand = `set -e
mkdir -p $ROOT/secrets
echo '{}' > $ROOT/secrets/vault.yml
echo $RANDOM | md5sum | head -c 20 > $ROOT/secrets/vault.salt
docker run --rm -e DEBUG=true -v $ROOT/srv/dataops-runner-$NAME/config:/etc/gitlab-runner dataopslive/dataops-runner register \
  --non-interactive --executor docker --docker-image dataopslive/dataops-utils-runner --url $URL \
  --registration-token $TOKEN --description $NAME --tag-list $NAME --run-untagged=false --locked=false
CONF=$ROOT/srv/dataops-runner-$NAME/config/config.toml
sed -i 's/^concurrent = .*/concurrent = 8/' $CONF
sed -i 's/^check_interval = .*/check_interval = 1/' $CONF
sed -i 's|volumes = .*|volumes = ["/app:/local_config:rw", "/agent_cache:/agent_cache:rw", "/secrets:/secrets:ro"]|' $CONF
docker run -d --name $NAME --restart always -v $ROOT/srv/dataops-runner-$NAME/config:/etc/gitlab-runner \
  -v /var/run/docker.sock:/var/run/docker.sock dataopslive/dataops-runner
`

// BenchmarkFirstBoot is one whole first boot against the documented commands, in turn, with the same dockerd, image
// and server: from the first process to the first answered poll (by hand), or to the end of dorunner-firstboot, which
// has seen that poll. Each iteration is one boot of each kind; run it with -benchtime 10x. Medians are reported.
func BenchmarkFirstBoot(b *testing.B) {
	needDocker(b)
	program := filepath.Join(b.TempDir(), "dorunner-firstboot")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "github.com/dorunner/dorunner-bake/cmd/dorunner-firstboot")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(program)
	if err != nil {
		b.Fatal(err)
	}
	took, cpu, memory := map[string][]time.Duration{}, map[string][]time.Duration{}, int64(0)
	peaks := make(chan int64)
	var started []time.Duration
	for n := 0; b.Loop(); n++ {
		for _, mode := range []string{"hand", "container", "api"} {
			gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{canary}})
			url, root, name := listenForContainers(b, gl), b.TempDir(), fmt.Sprintf("fbbench-%s-%d", mode, n)
			var cmd *exec.Cmd
			if mode == "hand" {
				cmd = exec.Command("bash", "-c", byHand)
				cmd.Env = append(os.Environ(), "ROOT="+root, "NAME="+name, "URL="+url, "TOKEN="+canary)
			} else {
				put(b, root, firstboot.RunnerFile, "name: "+name+"\nurl: "+url+"\ntoken: "+canary+"\nregister: "+mode+"\n")
				put(b, root, firstboot.PlatformFile, "nocloud")
				put(b, root, "/var/lib/cloud/data/instance-id", name)
				cmd = exec.Command(program, "boot", "--root", root)
			}
			began := time.Now()
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			if mode != "hand" {
				go func() { peaks <- peak(cmd.Process.Pid) }()
			}
			err := cmd.Wait()
			for err == nil && !polled(gl) {
				time.Sleep(time.Millisecond)
			}
			took[mode] = append(took[mode], time.Since(began))
			cpu[mode] = append(cpu[mode], cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
			if mode == "container" && err == nil {
				began := time.Now()
				again := exec.Command(program, "boot", "--root", root)
				if out, err := again.CombinedOutput(); err != nil {
					b.Fatalf("a second boot: %v\n%s", err, out)
				}
				took["again"] = append(took["again"], time.Since(began))
			}
			if _, rerr := docker("rm", "-f", "-v", name); rerr != nil || err != nil {
				b.Fatalf("%s: %v %v\n%s", mode, err, rerr, out.String())
			}
			if mode != "hand" {
				memory = max(memory, <-peaks)
			}
		}
		began := time.Now()
		if err := exec.Command(program, "version").Run(); err != nil {
			b.Fatal(err)
		}
		started = append(started, time.Since(began))
	}
	hand, container, api := median(took["hand"]), median(took["container"]), median(took["api"])
	b.ReportMetric(0, "ns/op") // the sum of three kinds says nothing
	b.ReportMetric(hand.Seconds()*1000, "by-hand-ms")
	b.ReportMetric(container.Seconds()*1000, "container-ms")
	b.ReportMetric(api.Seconds()*1000, "api-ms")
	b.ReportMetric(container.Seconds()/hand.Seconds(), "container/by-hand")
	b.ReportMetric(api.Seconds()/hand.Seconds(), "api/by-hand")
	b.ReportMetric(median(cpu["container"]).Seconds()*1000, "own-cpu-ms")
	b.ReportMetric(median(took["again"]).Seconds()*1000, "second-boot-ms")
	b.ReportMetric(median(started).Seconds()*1000, "start-ms")
	b.ReportMetric(float64(memory)/1024, "resident-MB")
	b.ReportMetric(float64(info.Size())/1e6, "program-MB")
}

// peak is the most memory that a process had resident, in KiB, as seen until it ended. What wait4 tells would include
// the memory of this program, from before the exec.
func peak(pid int) (most int64) {
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, after, found := strings.Cut(string(status), "VmHWM:")
		if err != nil || !found {
			return most
		}
		var now int64
		if _, err := fmt.Sscan(after, &now); err == nil {
			most = max(most, now)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func polled(gl *gitlabtest.Server) bool {
	r := gl.Runners()
	return len(r) == 1 && r[0].Polls > 0
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}
