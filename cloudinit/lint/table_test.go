package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The judge of our tables is cloud-init's own schema, which is not part of this project: it is read from a folder beside
// the repository, or from cloud-init's package.

// fact is what a schema says of one key.
type fact struct {
	types    map[string]bool
	words    []string
	free     bool // some form of it takes any text
	required bool
	limits   map[string]bool // "items 1..6", "keys 1..", "unique", "form", "from 0"
}

// flatten lists the keys of a JSON schema by path. The alternatives of oneOf and anyOf are laid together.
func flatten(root, s map[string]any, path string, sure bool, out map[string]*fact, depth int) {
	if depth > 40 {
		return
	}
	f := out[path]
	if f == nil {
		f = &fact{types: map[string]bool{}, limits: map[string]bool{}}
		out[path] = f
	}
	if ref, ok := s["$ref"].(string); ok {
		at := any(root)
		for step := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			at = at.(map[string]any)[step]
		}
		flatten(root, at.(map[string]any), path, sure, out, depth+1)
	}
	for _, k := range []string{"allOf", "oneOf", "anyOf"} {
		for _, alt := range list(s[k]) {
			flatten(root, alt.(map[string]any), path, sure && k == "allOf", out, depth+1)
		}
	}
	types := list(s["type"])
	if t, ok := s["type"].(string); ok {
		types = []any{t}
	}
	for _, t := range types {
		f.types[map[string]string{"string": "str", "integer": "int", "number": "num", "boolean": "bool", "array": "list", "object": "map", "null": "null"}[t.(string)]] = true
	}
	if words, ok := s["enum"]; ok {
		for _, w := range list(words) {
			if w, ok := w.(string); ok {
				f.words, f.types["str"] = append(f.words, w), true
			}
		}
	} else if slices.Contains(types, any("string")) {
		f.free = true
	}
	for name, limit := range map[string]string{"minItems": "items from %v", "maxItems": "items to %v", "minProperties": "keys from %v",
		"minimum": "from %v", "uniqueItems": "unique %v", "pattern": "form %v"} {
		if v := s[name]; v != nil {
			f.limits[fmt.Sprintf(limit, v)] = true
		}
	}
	for _, name := range []string{"properties", "patternProperties"} {
		props, _ := s[name].(map[string]any)
		for k, v := range props {
			if name == "patternProperties" {
				if k != "^.+$" {
					f.limits["names "+k] = true
				}
				k = "*"
			}
			flatten(root, v.(map[string]any), join(path, k), sure, out, depth+1)
		}
	}
	if v, ok := s["additionalProperties"].(map[string]any); ok {
		flatten(root, v, join(path, "*"), sure, out, depth+1)
	}
	items := list(s["items"])
	if i, ok := s["items"].(map[string]any); ok {
		items = []any{i}
	}
	for _, i := range items {
		flatten(root, i.(map[string]any), path+"[]", true, out, depth+1)
	}
	if sure {
		for _, k := range list(s["required"]) {
			if sub := out[join(path, k.(string))]; sub != nil {
				sub.required = true
			}
		}
	}
}

func list(v any) []any { l, _ := v.([]any); return l }

func schema(t *testing.T, file string) map[string]*fact {
	t.Helper()
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("%s is not there: put cloud-init's schemas beside the repository, or run .ci/fetch-cloud-init", file)
	}
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(b, &root); err != nil {
		t.Fatal(err)
	}
	out := map[string]*fact{}
	flatten(root, root, "", true, out, 0)
	delete(out, "")
	return out
}

// paths lists our table in the same way. A definition that holds itself is followed once.
func paths(k *key, path string, out map[string]*key) {
	if strings.Count(path, "[]") > 4 {
		return
	}
	for name, sub := range k.keys {
		out[join(path, name)] = sub
		paths(sub, join(path, name), out)
	}
	if k.any != nil {
		out[join(path, "*")] = k.any
		paths(k.any, join(path, "*"), out)
	}
	if k.items != nil {
		out[path+"[]"] = k.items
		paths(k.items, path+"[]", out)
	}
}

var sharedSchemas = filepath.Join("..", "..", "..", "shared", "cloud-init")

// known differences, each with its reason
var (
	// Keys that a schema leaves open and other documentation names.
	beyond = []string{
		"autoinstall.", // Ubuntu's installer
		// Definitions that a list and its items share.
		"ansible.pull[][]",
	}
	// netplan takes these on, where cloud-init hands the document to it.
	netplan = []string{"accept-ra", "critical", "dhcp-identifier", "ignore-carrier", "ipv6-address-generation", "ipv6-mtu", "ipv6-privacy",
		"link-local", "macaddress", "optional-addresses", "routing-policy", "auth", "access-points", "sriov", "link", "virtual-function-count",
		"emit-lldp", "addresses[].*", "from", "mtu", "on-link", "scope", "table", "type", "all-members-active", "packets-per-member",
		"primary", "resend-igmp", "port-priority", "path-cost.*", "dummy-devices", "modems", "nm-devices", "openvswitch", "tunnels",
		"vrfs", "wifis", "learn-packet-interval", "activation-mode", "dhcp4-identifier", "ipv6-address-token", "neigh-suppress",
		"networkmanager", "ra-overrides", "delay-virtual-functions-rebind", "embedded-switch-mode", "infiniband-mode",
		"generic-receive-offload", "generic-segmentation-offload", "large-receive-offload", "receive-checksum-offload",
		"tcp-segmentation-offload", "tcp6-segmentation-offload", "transmit-checksum-offload", "regulatory-domain", "wakeonwlan",
		"advertised-mss", "advertised-receive-window", "congestion-window", "gratuitious-arp", "virtual-ethernets"} //nolint:misspell // that is its name
)

// everyForm are keys that each alternative of the schema requires.
var everyForm = []string{"reporting.*.type", "rsyslog.configs[].content"}

// limits are a key's limits in the words of fact.
func limits(k *key) []string {
	var out []string
	say := func(is bool, format string, args ...any) {
		if is {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	say(k.least > 0, "items from %d", k.least)
	say(k.most > 0, "items to %d", k.most)
	say(k.filled > 0, "keys from %d", k.filled)
	say(k.unique, "unique true")
	if k.from != nil {
		out = append(out, fmt.Sprintf("from %d", *k.from))
	}
	for what, form := range map[string]*regexp.Regexp{"form": k.form, "names": k.names} {
		if form != nil {
			out = append(out, what+" "+strings.ReplaceAll(form.String(), `\x20`, " "))
		}
	}
	return out
}

// otherwise are limits of the schemas that the tables do not hold.
var otherwise = []string{
	"ansible.galaxy.actions[][] form ^.*$", // any text
	"chpasswd.users[] items from 1",        // on a map it says nothing
}

func TestTablesHoldWhatTheSchemasDo(t *testing.T) {
	for file, table := range map[string]*key{
		"schema-cloud-config-v1.json":   cloudConfigKeys(),
		"schema-network-config-v1.json": network1Keys(),
		"schema-network-config-v2.json": network2Keys(),
	} {
		t.Run(file, func(t *testing.T) {
			facts := schema(t, filepath.Join(sharedSchemas, file))
			ours := map[string]*key{}
			paths(table, "", ours)
			for path, f := range facts {
				k := ours[path]
				if k == nil {
					if !strings.Contains(path, "config[].params.") { // any list will do there
						t.Errorf("%s is missing", path)
					}
					continue
				}
				for kind := range f.types {
					// "off" without quotes is false to YAML 1.1, so a word may be a boolean.
					if !k.takes(kind) {
						t.Errorf("%s: takes %v, and the schema %s too", path, k.types, kind)
					}
				}
				if len(f.words) > 0 && !f.free {
					for _, w := range f.words {
						if k.dashes {
							w = strings.ReplaceAll(w, "-", "_")
						}
						if k.takes("str") && len(k.words) > 0 && !slices.Contains(k.words, w) {
							t.Errorf("%s: the word %s is missing", path, w)
						}
					}
				}
				if k.required && !f.required && strings.HasPrefix(file, "schema-cloud") && !slices.Contains(everyForm, path) {
					t.Errorf("%s: we require what the schema does not", path)
				}
				if f.required && !k.required {
					t.Errorf("%s: the schema requires it", path)
				}
				for limit := range f.limits {
					if !slices.Contains(limits(k), limit) && !slices.Contains(otherwise, path+" "+limit) {
						t.Errorf("%s: the schema says %q, and we %q", path, limit, limits(k))
					}
				}
			}
			for path := range ours {
				last := path[strings.LastIndex(path, ".")+1:]
				if facts[path] != nil || slices.ContainsFunc(beyond, func(b string) bool { return strings.HasPrefix(path, b) }) {
					continue
				}
				if strings.HasSuffix(file, "v2.json") && slices.ContainsFunc(netplan, func(n string) bool {
					return n == last || strings.HasSuffix(path, "."+n) || strings.Contains(path, "."+n+"[]") || strings.Contains(path, "."+n+".") || strings.HasPrefix(path, n)
				}) {
					continue
				}
				t.Errorf("%s is no key of cloud-init's", path)
			}
		})
	}
}

// packageSchema is the schema of cloud-init 22.4.2, Debian 12's.
func packageSchema() string {
	sub := filepath.Join("usr", "lib", "python3", "dist-packages", "cloudinit", "config", "schemas", "schema-cloud-config-v1.json")
	if cache, err := os.UserCacheDir(); err == nil {
		if p := filepath.Join(cache, "dorunner-bake", "tools", "cloud-init", sub); exists(p) {
			return p
		}
	}
	return "/" + sub
}

func exists(p string) bool { _, err := os.Stat(p); return err == nil }

// TestSinceAgreesWithAnOldSchema holds the ages of keys against a cloud-init that is older than all of them.
func TestSinceAgreesWithAnOldSchema(t *testing.T) {
	facts := schema(t, packageSchema())
	ours := map[string]*key{}
	paths(cloudConfigKeys(), "", ours)
	young := map[string]bool{}
	for path, k := range ours {
		if k.since == "" {
			continue
		}
		if !older("22.4.2", k.since) {
			t.Errorf("%s: since %s says nothing", path, k.since)
		}
		young[path] = true
		if facts[path] != nil {
			t.Errorf("%s: is said to be new in %s, and 22.4.2 has it", path, k.since)
		}
	}
	// cloud-init read these before its schema named them.
	undocumented := []string{"launch-index", "merge_how", "merge_type", "output", "system_info", "version", "user.", "users[].", "ansible.pull[]", "autoinstall."}
	for path := range ours {
		covered := facts[path] != nil || slices.ContainsFunc(undocumented, func(p string) bool { return strings.HasPrefix(path, p) })
		for y := range young {
			covered = covered || strings.HasPrefix(path, y)
		}
		if !covered {
			t.Errorf("%s: 22.4.2 does not know it, so it needs a since:", path)
		}
	}
}
