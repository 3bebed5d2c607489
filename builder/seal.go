package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/dorunner/dorunner-bake/templates"
)

// seal removes what clones must not share, then reads the machine again to see that nothing is left. A finding fails
// the bake.
func (b *bake) seal(ctx context.Context) error {
	// The engine's id is written while it runs.
	if err := b.stopDocker(ctx); err != nil {
		return fmt.Errorf("stop the image's docker daemon: %w", err)
	}
	seal, err1 := templates.Read("guest/seal.sh")
	audit, err2 := templates.Read("guest/audit.sh")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	var out bytes.Buffer
	if err := b.script(ctx, briefly, "seal-and-audit.sh", Command{
		Args: []string{string(seal), string(audit)}, Env: []string{"OFFLINE=" + b.offline()},
		Stdin: strings.NewReader(b.usedSecrets()), Stdout: &out,
	}); err != nil {
		return err
	}
	sealed, findings, whole := strings.Cut(out.String(), "audit\n")
	_, used, found := strings.Cut(sealed, "root_used ")
	if !whole || !found {
		return errors.New("the machine does not say that it was sealed and audited")
	}
	b.manifest.Sizes["root_used"], _ = strconv.ParseInt(strings.TrimSpace(used), 10, 64)
	b.manifest.Audit = parseAudit(findings)
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
