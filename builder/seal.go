package builder

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
)

// seal removes what clones must not share, then reads the machine again to see that nothing is left. A finding fails
// the bake.
func (b *bake) seal(ctx context.Context) error {
	// The engine's id is written while it runs.
	if err := b.stopDocker(ctx); err != nil {
		return fmt.Errorf("stop the image's docker daemon: %w", err)
	}
	var out bytes.Buffer
	if err := b.script(ctx, briefly, "seal.sh", Command{Env: []string{"OFFLINE=" + b.offline()}, Stdout: &out}); err != nil {
		return err
	}
	for l := range strings.Lines(out.String()) {
		if n, found := strings.CutPrefix(strings.TrimSpace(l), "root_used "); found {
			b.manifest.Sizes["root_used"], _ = strconv.ParseInt(n, 10, 64)
		}
	}
	out.Reset()
	if err := b.script(ctx, briefly, "audit.sh", Command{Stdin: strings.NewReader(b.usedSecrets()), Stdout: &out}); err != nil {
		return err
	}
	b.manifest.Audit = parseAudit(out.String())
	return auditError(b.manifest.Audit)
}

// usedSecrets are those that the audit looks for in files, one per line. Short ones would be found in any text.
func (b *bake) usedSecrets() string {
	var out strings.Builder
	for _, s := range []string{b.inputs.password, b.plan.Spec.Runner.Token.Reveal()} {
		if len(s) >= 6 && !strings.ContainsAny(s, "\r\n") {
			out.WriteString(s + "\n")
		}
	}
	return out.String()
}

// parseAudit reads the lines of audit.sh.
func parseAudit(out string) []AuditFinding {
	all := []AuditFinding{}
	for l := range strings.Lines(out) {
		if path, what, ok := strings.Cut(strings.TrimRight(l, "\n"), "\t"); ok {
			all = append(all, AuditFinding{Path: path, What: what})
		}
	}
	return all
}

func auditError(found []AuditFinding) error {
	if len(found) == 0 {
		return nil
	}
	var s strings.Builder
	for _, f := range found {
		fmt.Fprintf(&s, "\n    %s: %s", f.Path, f.What)
	}
	return fmt.Errorf("the sealed machine still holds what clones must not share; remove it in one of image.scripts:%s", s.String())
}
