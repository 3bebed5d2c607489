package lint

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/cloudinit/decode"
)

var (
	networkStart = regexp.MustCompile(`(?m)^(ethernets|bonds|bridges|vlans|wifis|config)\s*:`)
	networkTop   = regexp.MustCompile(`(?m)^network\s*:`)
	versionStart = regexp.MustCompile(`(?m)^version\s*:`)
	metaStart    = regexp.MustCompile(`(?m)^(instance-id|instance_id|local-hostname)\s*:`)
)

// guessKind tells a seed's other files from user-data.
func guessKind(data []byte) string {
	switch {
	case decode.KindOf(data) != "":
	case metaStart.Match(data):
		return "meta-data"
	case networkTop.Match(data), networkStart.Match(data) && versionStart.Match(data):
		return "network-config"
	}
	return "user-data"
}

// network judges a network configuration of version 1 or 2.
func (l *linter) network(d *document) {
	at := d.root
	if n := get(at, "network"); n != nil {
		at = n
	}
	table := network2Keys()
	v := get(at, "version")
	switch {
	case v == nil:
		l.add(d.layer, d.off(at), "missing-key", false, "", "write version: 2", `"version" is required here`)
	case v.Value == "1":
		table = network1Keys()
	case v.Value != "2":
		l.add(d.layer, d.off(v), "value", false, "version", "write version: 2", "cloud-init knows versions 1 and 2")
	}
	l.check(d, d.root, table, "")
	if v != nil && v.Value == "1" {
		l.entries(d, at)
	}
	if v != nil && v.Value == "2" {
		for _, kind := range []string{"ethernets", "bonds", "bridges", "vlans", "wifis"} {
			if devices := get(at, kind); devices != nil {
				for k, dev := range pairs(devices) {
					l.device(d, resolved(dev), kind+"."+k.Value)
				}
			}
		}
	}
}

// needs are the keys that an entry of version 1 must have, by its type.
var needs = map[string][]string{
	"physical": {"name"}, "bond": {"name"}, "bridge": {"name", "bridge_interfaces", "params"}, "vlan": {"name", "vlan_link", "vlan_id"},
	"nameserver": {"address"}, "route": {"gateway"},
}

// entries judges what depends on the type of an entry of version 1.
func (l *linter) entries(d *document, at *yaml.Node) {
	for i, e := range items(get(at, "config")) {
		e = resolved(e)
		kind, path := get(e, "type"), fmt.Sprintf("config[%d]", i)
		if kind == nil {
			continue
		}
		lack := func(name string) {
			l.add(d.layer, d.off(e), "missing-key", false, path, "", "%q is required where the type is %s", name, kind.Value)
		}
		for _, name := range needs[kind.Value] {
			if get(e, name) == nil {
				lack(name)
			}
		}
		if kind.Value == "route" && get(e, "destination") == nil && get(e, "network") == nil {
			lack("destination")
		}
		if name := get(e, "name"); name != nil && len(name.Value) > 15 {
			l.add(d.layer, d.off(name), "value", false, path+".name", "shorten it", "Linux takes no interface name of more than 15 characters")
		}
	}
}

// device checks the addresses of one interface.
func (l *linter) device(d *document, dev *yaml.Node, path string) {
	bad := func(n *yaml.Node, sub, hint, format string, args ...any) {
		l.add(d.layer, d.off(n), "value", false, path+"."+sub, hint, format, args...)
	}
	for _, a := range items(get(dev, "addresses")) {
		if a = resolved(a); a.Kind == yaml.ScalarNode {
			if _, err := netip.ParsePrefix(a.Value); err != nil {
				bad(a, "addresses", "write it as 192.0.2.10/24", "%q is not an address with the length of its network", a.Value)
			}
		}
	}
	address := func(n *yaml.Node, sub string) {
		if n != nil && n.Kind == yaml.ScalarNode {
			if _, err := netip.ParseAddr(n.Value); err != nil {
				bad(n, sub, "", "%q is not an IP address", n.Value)
			}
		}
	}
	address(get(dev, "gateway4"), "gateway4")
	address(get(dev, "gateway6"), "gateway6")
	if ns := get(dev, "nameservers"); ns != nil {
		for _, a := range items(get(ns, "addresses")) {
			address(resolved(a), "nameservers.addresses")
		}
	}
	for _, r := range items(get(dev, "routes")) {
		address(get(resolved(r), "via"), "routes.via")
		if to := get(resolved(r), "to"); to != nil && to.Value != "default" {
			if _, err := netip.ParsePrefix(to.Value); err != nil && net.ParseIP(to.Value) == nil {
				bad(to, "routes.to", `write a network such as 10.0.0.0/8, or "default"`, "%q is not a network", to.Value)
			}
		}
	}
	if m := get(dev, "match"); m != nil {
		if mac := get(m, "macaddress"); mac != nil {
			if _, err := net.ParseMAC(mac.Value); err != nil {
				hint := ""
				if kindOf(mac) == "int" {
					hint = "quote it"
				}
				bad(mac, "match.macaddress", hint, "%q is not a MAC address", mac.Value)
			}
		}
	}
}

var hostnameForm = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?$`)

// metaData judges NoCloud meta-data.
func (l *linter) metaData(d *document) {
	id := get(d.root, "instance-id")
	if id == nil || strings.TrimSpace(id.Value) == "" {
		l.add(d.layer, d.off(d.root), "missing-key", false, "", "write instance-id: NAME-1", "without an instance-id every machine is the same to cloud-init")
	}
	if h := get(d.root, "local-hostname"); h != nil && !hostnameForm.MatchString(h.Value) {
		l.add(d.layer, d.off(h), "value", false, "local-hostname", "use letters, digits and dashes", "%q is not a host name", h.Value)
	}
	for k := range pairs(d.root) { // any key may stand here, so a misspelt one must look like one of these two
		for _, name := range []string{"instance-id", "local-hostname"} {
			if k.Value != name && get(d.root, name) == nil && distance(strings.ToLower(strings.ReplaceAll(k.Value, "_", "-")), name, 2) <= 2 {
				l.add(d.layer, d.off(k), "unknown-key", false, k.Value, "did you mean "+name+"?", "cloud-init knows no key of this name and ignores it")
			}
		}
	}
}
