package lint_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/cloudinit/cloudinittest"
	"github.com/dorunner/dorunner-bake/cloudinit/lint"
)

// BenchmarkLint16KB is a full EC2 user-data, by us and by `cloud-init schema`.
func BenchmarkLint16KB(b *testing.B) {
	var s strings.Builder
	s.WriteString("#cloud-config\nwrite_files:\n")
	for i := 0; s.Len() < 16000; i++ {
		fmt.Fprintf(&s, "  - path: /etc/app/%d.conf\n    permissions: \"0644\"\n    content: |\n      key = value %d\n      other = [1, 2, 3]\n", i, i)
	}
	s.WriteString("runcmd:\n  - [systemctl, restart, docker]\n")
	data := []byte(s.String())
	if f := lint.Lint(data, target).Findings; len(f) > 0 {
		b.Fatal(f[0].Text("bench"))
	}
	for b.Loop() {
		lint.Lint(data, target)
	}
	ours := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(ours*1000, "ms/lint")
	var theirs float64 // the program itself, once warm
	for range 2 {
		start := time.Now()
		if err := cloudinittest.Schema(b, data); err != nil {
			b.Fatal(err)
		}
		theirs = time.Since(start).Seconds()
	}
	b.ReportMetric(theirs*1000, "ms/cloud-init-schema")
	b.ReportMetric(ours/theirs, "x-of-cloud-init-schema")
}

// BenchmarkLintBroken16KB has its YAML error at the end, the worst case for finding its place.
func BenchmarkLintBroken16KB(b *testing.B) {
	data := []byte("#cloud-config\nruncmd:\n" + strings.Repeat("  - [echo, a]\n", 1150) + " - b\n")
	for b.Loop() {
		if len(lint.Lint(data, target).Findings) != 1 {
			b.Fatal("one error was to be found")
		}
	}
}
