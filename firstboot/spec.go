package firstboot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// The files that say who this machine is, and where it runs.
const (
	DefaultsFile = "/etc/dorunner/defaults.yaml" // baked
	RunnerFile   = "/etc/dorunner/runner.yaml"   // user-data
	PlatformFile = "/etc/dorunner/platform"      // one word, baked
)

func (b *boot) identify(ctx context.Context) error {
	id, err := b.p.Identity(ctx)
	if err != nil {
		return err
	}
	if id.InstanceID == "" {
		return fmt.Errorf("the platform %s gives no instance id: clones could not be told apart", b.p.Name())
	}
	b.id = id
	b.report.InstanceID = id.InstanceID
	return nil
}

func (b *boot) readSpec(context.Context) error {
	spec, warnings, err := ReadSpec(b.h, b.id.Overlay)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		b.warn("%s", w)
	}
	b.spec = spec
	b.report.Runner = spec.Name
	b.gitlab = &gitlab{rt: b.h.HTTP, now: b.h.Now, base: gitlabBase(spec.URL), warn: b.warn}
	if bad := spec.ValidateIdentity(); len(bad) > 0 {
		return fmt.Errorf("this machine cannot be a runner as it is told: %w", problems(bad))
	}
	b.secrets = plainSecrets(spec)
	b.desc, err = spec.Describe(runner.Facts{Name: spec.Name, InstanceID: b.id.InstanceID, Hostname: b.id.Hostname, Region: b.id.Region, Zone: b.id.Zone})
	b.report.Description = b.desc
	return err
}

// plainSecrets are the literals of a spec.
func plainSecrets(spec runner.Spec) (list []string) {
	for _, s := range spec.Secrets() {
		if s.IsPlain() {
			list = append(list, s.Reveal())
		}
	}
	return list
}

func problems(list []runner.Finding) error {
	errs := make([]error, len(list))
	for i, f := range list {
		errs[i] = f
	}
	return errors.Join(errs...)
}

// ReadSpec lays the documented defaults, the baked ones, the user-data and the metadata overlay over each other.
// The spec is not validated yet.
func ReadSpec(h *Host, overlay map[string]string) (runner.Spec, []string, error) {
	spec := runner.Default()
	for _, file := range []string{DefaultsFile, RunnerFile} {
		data, err := h.readFile(file)
		if err != nil {
			return spec, nil, err
		}
		if err := runner.Decode(&spec, data); errors.Is(err, runner.ErrUnknownKey) {
			return spec, nil, final(fmt.Errorf("%s: %w", file, err), "mend it; or it was made for a newer dorunner-firstboot than this image's: bake the image anew")
		} else if err != nil {
			return spec, nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	warnings, err := overlaySpec(&spec, overlay)
	standard := runner.Default()
	for d, otherwise := range map[*runner.Duration]runner.Duration{
		&spec.RegisterTimeout: standard.RegisterTimeout, &spec.BootTimeout: standard.BootTimeout, &spec.DrainTimeout: standard.DrainTimeout,
	} {
		if *d == 0 { // no limit at all would let one hung server hold the machine for ever
			*d = otherwise
		}
	}
	return spec, warnings, err
}

func isTrue(b *bool) bool { return b != nil && *b }

// overlaySpec takes the keys of the overlay that a spec knows; tags of the same prefix may serve other ends, so an
// unknown one is a warning. A dotted key reaches into a part, a list is separated by commas.
func overlaySpec(spec *runner.Spec, overlay map[string]string) (warnings []string, err error) {
	for _, key := range slices.Sorted(maps.Keys(overlay)) {
		value := &yaml.Node{Kind: yaml.ScalarNode, Value: overlay[key]}
		switch key {
		case "tags", "volumes", "pull_policy":
			list := &yaml.Node{Kind: yaml.SequenceNode}
			for v := range strings.SplitSeq(overlay[key], ",") {
				list.Content = append(list.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: strings.TrimSpace(v)})
			}
			value = list
		}
		parts := strings.Split(key, ".")
		for _, p := range slices.Backward(parts) { // a tag's key may be anything: it is text, not YAML
			value = &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Tag: "!!str", Value: p}, value}}
		}
		data, err := yaml.Marshal(value)
		if err != nil {
			return warnings, fmt.Errorf("metadata %s: %w", key, err)
		}
		switch err := runner.Decode(spec, data); {
		case err == nil:
		case errors.Is(err, runner.ErrUnknownKey):
			warnings = append(warnings, fmt.Sprintf("metadata key %q is none of a runner's: ignored", key))
		default:
			return warnings, fmt.Errorf("metadata %s: %w", key, err)
		}
	}
	return warnings, nil
}

// secret resolves a reference. What needs no cloud is read here, the rest by the platform.
func (b *boot) secret(ctx context.Context, name string, s runner.Secret) (string, error) {
	var value string
	var err error
	switch s.Scheme() {
	case "plain":
		value = s.Reveal()
	case "env":
		value = b.h.Getenv(s.Ref())
	case "file":
		value, err = b.secretFile(s.Ref())
	case "credential":
		dir := b.h.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return "", final(fmt.Errorf("%s: there are no systemd credentials (credential:%s)", name, s.Ref()), "add LoadCredential= to dorunner-firstboot.service")
		}
		value, err = b.secretFile(filepath.Join(dir, filepath.Base(s.Ref())))
	default: // the network, the clock or the permission may come late: what is not refused is asked again
		err = b.retry(ctx, "read "+s.String(), func(ctx context.Context) error {
			value, err = b.p.Secret(ctx, s)
			return err
		})
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	value = strings.TrimSpace(value)
	if value == "" {
		return "", final(fmt.Errorf("%s: %s is empty", name, s), "put the secret there")
	}
	b.secrets = append(b.secrets, value)
	return value, nil
}

func (b *boot) secretFile(p string) (string, error) {
	data, err := os.ReadFile(b.h.path(p))
	if errors.Is(err, os.ErrNotExist) {
		return "", final(err, "put the secret there")
	}
	return string(data), err
}
