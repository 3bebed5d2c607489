package runner

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Finding is one thing wrong with a spec: where, what, and what to do about it.
type Finding struct {
	Path    string // dotted, below "runner": "token", "tags[1]"
	Message string // one sentence, lower case
	Hint    string // what to do; may be empty
}

func (f Finding) Error() string {
	if f.Hint == "" {
		return "runner." + f.Path + ": " + f.Message
	}
	return "runner." + f.Path + ": " + f.Message + "; " + f.Hint
}

var (
	nameForm  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)
	imageForm = regexp.MustCompile(`^[a-z0-9][a-zA-Z0-9._/:-]*(@sha256:[0-9a-f]{64})?$`)
)

// Validate lists everything that keeps the spec from being a runner's baked defaults. Identity (name, url, token)
// may be absent: an image has none.
func (s Spec) Validate() []Finding {
	var out []Finding
	bad := func(p, msg, hint string) { out = append(out, Finding{p, msg, hint}) }
	oneOf := func(p, v string, of ...string) {
		if v != "" && !slices.Contains(of, v) {
			bad(p, fmt.Sprintf("%q is not one of %s", v, strings.Join(of, ", ")), "")
		}
	}
	if s.Name != "" && !nameForm.MatchString(s.Name) {
		bad("name", fmt.Sprintf("%q cannot name a container", s.Name), "use letters, digits, dots, dashes and underscores")
	}
	if _, err := s.Describe(Facts{Name: "n", InstanceID: "i", Hostname: "h", Region: "r", Zone: "z"}); err != nil {
		bad("description", err.Error(), "the fields are .Name, .InstanceID, .Hostname, .Region and .Zone")
	}
	if s.URL != "" {
		if u, err := url.Parse(s.URL); err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
			bad("url", fmt.Sprintf("%q is not an http or https address", s.URL), "write it as https://app.dataops.live")
		} else if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			bad("url", "the address carries a login, query or fragment", "leave only scheme, host and path")
		}
	}
	for i, t := range s.Tags {
		if strings.TrimSpace(t) == "" || strings.ContainsAny(t, ",\n") {
			bad(fmt.Sprintf("tags[%d]", i), fmt.Sprintf("%q is not a tag", t), "a tag is not empty and holds no comma: GitLab would make two of it")
		}
	}
	if s.Name != "" && len(s.Tags) == 0 && strings.Contains(s.Name, ",") {
		bad("name", "the name serves as tag and holds a comma", "")
	}
	for p, v := range map[string]string{"image": s.Image, "job_image": s.JobImage} {
		if v != "" && !imageForm.MatchString(v) {
			bad(p, fmt.Sprintf("%q is not a container image reference", v), "write it as repository[:tag][@sha256:...]")
		}
	}
	if s.Concurrent < 0 || s.Concurrent > 1000 {
		bad("concurrent", fmt.Sprintf("%d is not between 1 and 1000", s.Concurrent), "")
	}
	if s.CheckInterval < 0 || s.CheckInterval > 3600 {
		bad("check_interval", fmt.Sprintf("%d is not between 1 and 3600 seconds", s.CheckInterval), "")
	}
	if s.HealthPort < 0 || s.HealthPort > 65535 {
		bad("health_port", fmt.Sprintf("%d is not a port", s.HealthPort), "leave it out to answer no health probes")
	}
	oneOf("executor", s.Executor, "docker")
	oneOf("register", s.Register, "container", "api")
	oneOf("on_failure", s.OnFailure, "stay", "poweroff", "unhealthy")
	for i, p := range s.PullPolicy {
		oneOf(fmt.Sprintf("pull_policy[%d]", i), p, "always", "if-not-present", "never")
	}
	for i, v := range s.Volumes {
		parts := strings.Split(v, ":")
		if len(parts) > 3 || !path.IsAbs(parts[0]) || (len(parts) > 1 && !path.IsAbs(parts[1])) {
			bad(fmt.Sprintf("volumes[%d]", i), fmt.Sprintf("%q is not a volume", v), "write it as /host:/container:rw")
		}
	}
	for p, d := range map[string]Duration{"register_timeout": s.RegisterTimeout, "boot_timeout": s.BootTimeout, "drain_timeout": s.DrainTimeout} {
		if d < 0 {
			bad(p, "the duration is negative", "")
		}
	}
	if s.Vault.Path != "" && (!path.IsAbs(s.Vault.Path) || path.Clean(s.Vault.Path) == "/") {
		bad("vault.path", fmt.Sprintf("%q is not an absolute directory", s.Vault.Path), "the documented one is /secrets")
	}
	slices.SortFunc(out, func(a, b Finding) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// ValidateIdentity lists what a machine lacks to register: what baking does not need and launching does.
func (s Spec) ValidateIdentity() []Finding {
	out := s.Validate()
	need := func(p string, empty bool, msg, hint string) {
		if empty {
			out = append(out, Finding{p, msg, hint})
		}
	}
	need("name", s.Name == "", "a runner needs a name: its container, directory and tag carry it", "for example dataops-runner-singapore")
	need("url", s.URL == "", "a runner needs the address of the DataOps application", "for example https://app.dataops.live")
	need("token", s.Token.IsZero(), "a runner needs a token to register with", "refer to it, for example ssm:/dorunner/token or file:/run/secrets/token")
	return out
}

// Describe renders the description template over what a machine knows about itself.
func (s Spec) Describe(f Facts) (string, error) {
	if f.Name == "" {
		f.Name = s.Name
	}
	fields := map[string]string{"Name": f.Name, "InstanceID": f.InstanceID, "Hostname": f.Hostname, "Region": f.Region, "Zone": f.Zone}
	var bad error
	text := descriptionField.ReplaceAllStringFunc(s.Description, func(m string) string {
		value, found := fields[descriptionField.FindStringSubmatch(m)[1]]
		if !found {
			bad = fmt.Errorf("the template does not render: %s is no field", m)
		}
		return value
	})
	if rest := descriptionField.ReplaceAllString(s.Description, ""); bad == nil && (strings.Contains(rest, "{{") || strings.Contains(rest, "}}")) {
		return "", errors.New("the template does not parse: it knows fields alone, such as {{.Name}}")
	}
	return text, bad
}

// descriptionField is all of Go's templates that a description needs: text/template keeps the linker from dropping
// what the program on the machine does not use, a sixth of it.
var descriptionField = regexp.MustCompile(`\{\{\s*\.(\w+)\s*\}\}`)

// TagList is what jobs find the runner by: the tags, or the name.
func (s Spec) TagList() []string {
	if len(s.Tags) == 0 && s.Name != "" {
		return []string{s.Name}
	}
	return s.Tags
}
