package lint_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/cloudinit/lint"
)

// BenchmarkLint16KB is a full EC2 user-data; `cloud-init schema` takes 380 to 520 ms for one.
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
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		lint.Lint(data, target)
	}
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
