package lint

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/cloudinit/decode"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// hosts judges a hosts.yaml: every machine named, nothing given to two of them.
func (l *linter) hosts(d *document) {
	l.check(d, d.root, hostsKeys(), "")
	seen := map[string]*yaml.Node{}
	once := func(n *yaml.Node, what, value string) {
		if first := seen[what+value]; first != nil {
			l.add(d.layer, d.off(n), "duplicate", false, "", "give each machine its own", "the %s %s is taken: line %d has it", what, n.Value, first.Line)
			return
		}
		seen[what+value] = n
	}
	gateway := func(h *yaml.Node) *yaml.Node {
		if g := get(h, "gateway"); g != nil {
			return g
		}
		if all := get(d.root, "defaults"); all != nil {
			return get(resolved(all), "gateway")
		}
		return nil
	}
	list := get(d.root, "hosts")
	if list == nil || list.Kind != yaml.SequenceNode {
		return
	}
	if len(list.Content) == 0 {
		l.add(d.layer, d.off(list), "missing-key", false, "hosts", "", "no machine is listed")
	}
	for _, h := range list.Content {
		h = resolved(h)
		if h.Kind != yaml.MappingNode {
			continue
		}
		name := get(h, "name")
		if name == nil || name.Value == "" {
			l.add(d.layer, d.off(h), "missing-key", false, "", "", `"name" is required here`)
		} else {
			once(name, "name", strings.ToLower(name.Value))
			if !hostnameForm.MatchString(name.Value) || len(name.Value) > 64 {
				l.add(d.layer, d.off(name), "value", false, "", "use letters, digits and dashes", "%q cannot name a machine", name.Value)
			}
		}
		if mac := get(h, "mac"); mac != nil {
			if hw, err := net.ParseMAC(mac.Value); err != nil || len(hw) != 6 {
				l.add(d.layer, d.off(mac), "value", false, "", "write it as 52:54:00:12:34:56, quoted", "%q is not a MAC address", mac.Value)
			} else {
				once(mac, "MAC address", hw.String())
			}
		}
		if serial := get(h, "serial"); serial != nil {
			if strings.ContainsAny(serial.Value, " \t\n") || serial.Value == "" {
				l.add(d.layer, d.off(serial), "value", false, "", "take it from dmidecode -s system-serial-number", "%q is not a serial number", serial.Value)
			}
			once(serial, "serial number", strings.ToLower(serial.Value))
		}
		if a := get(h, "addresses"); len(items(a)) > 0 && get(h, "mac") == nil {
			l.add(d.layer, d.off(a), "missing-key", false, "", "", `"mac" is required beside addresses: the interface is told by it`)
		}
		var networks []netip.Prefix
		for _, a := range items(get(h, "addresses")) {
			p, err := netip.ParsePrefix(a.Value)
			if err != nil {
				l.add(d.layer, d.off(a), "value", false, "", "write it as 192.0.2.10/24", "%q is not an address with the length of its network", a.Value)
				continue
			}
			once(a, "address", p.Addr().Unmap().String())
			if first, last := ends(p); p.Addr().Is4() && p.Bits() < 31 && (p.Addr() == first || p.Addr() == last) {
				l.add(d.layer, d.off(a), "value", false, "", "", "%s is the first or last address of its network, which no machine can have", a.Value)
			}
			networks = append(networks, p)
		}
		if g := gateway(h); g != nil {
			l.reach(d, h, g, networks)
		}
	}
	if all := get(d.root, "defaults"); all != nil {
		for _, key := range []string{"name", "mac", "serial", "addresses"} {
			if n := get(all, key); n != nil {
				l.add(d.layer, d.off(n), "value", false, "defaults."+key, "give it under hosts:", "it belongs to one machine alone")
			}
		}
	}
	for _, h := range append(items(list), get(d.root, "defaults")) {
		if h == nil || resolved(h).Kind != yaml.MappingNode {
			continue
		}
		for _, key := range []string{"gateway", "dns"} {
			n := get(resolved(h), key)
			for _, a := range append(items(n), scalar(n)...) {
				if _, err := netip.ParseAddr(a.Value); err != nil {
					l.add(d.layer, d.off(a), "value", false, key, "", "%q is not an IP address", a.Value)
				}
			}
		}
		if token := get(resolved(h), "token"); token != nil {
			if _, err := runner.ParseSecret(token.Value); err != nil {
				l.add(d.layer, d.off(token), "value", false, "token", "", "%v", err)
			}
		}
	}
}

// reach refuses a gateway that a machine with addresses cannot talk to.
func (l *linter) reach(d *document, h, gateway *yaml.Node, networks []netip.Prefix) {
	g, err := netip.ParseAddr(gateway.Value)
	if err != nil || len(networks) == 0 {
		return // said elsewhere, or it asks DHCP
	}
	inside := false
	for _, p := range networks {
		if p.Addr() == g {
			l.add(d.layer, d.off(get(h, "addresses")), "value", false, "addresses", "", "the machine's own address %s is its gateway: line %d has it", g, gateway.Line)
			return
		}
		inside = inside || p.Contains(g) || g.Is6() && g.IsLinkLocalUnicast() && p.Addr().Is6()
	}
	if !inside {
		at := gateway
		if get(h, "gateway") == nil {
			at = get(h, "addresses")
		}
		l.add(d.layer, d.off(at), "value", false, "gateway", "name a gateway within the machine's network", "the gateway %s is in no network of the machine's addresses, so it cannot be reached", g)
	}
}

// ends are the first and the last address of a network of IPv4.
func ends(p netip.Prefix) (first, last netip.Addr) {
	first = p.Masked().Addr()
	if !first.Is4() {
		return first, first
	}
	b := first.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|uint32(1<<(32-p.Bits())-1))
	return first, netip.AddrFrom4(b)
}

func items(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	out := make([]*yaml.Node, len(n.Content))
	for i, c := range n.Content {
		out[i] = resolved(c)
	}
	return out
}

func scalar(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.ScalarNode {
		return nil
	}
	return []*yaml.Node{n}
}

// Hosts judges a hosts.yaml and gives its text's root for decoding; nil when it cannot be read.
func Hosts(data []byte) (*yaml.Node, []Finding) {
	l := &linter{Options: Options{Kind: "hosts"}, seen: map[string]bool{}}
	layer := &decode.Layer{Data: data}
	root := l.parse(layer)
	if root != nil {
		l.hosts(&document{layer: layer, root: root})
	}
	l.sort()
	return root, l.report.Findings
}
