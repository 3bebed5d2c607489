package cloudinit

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/cloudinit/iso9660"
	"github.com/dorunner/dorunner-bake/cloudinit/lint"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/templates"
)

// Host is one machine of hosts.yaml. What it does not say, the file's defaults do.
type Host struct {
	Name        string        `yaml:"name"` // host name and runner name
	MAC         string        `yaml:"mac"`
	Serial      string        `yaml:"serial"`    // as SMBIOS tells it
	Addresses   []string      `yaml:"addresses"` // with the length of the network; none means DHCP
	Gateway     string        `yaml:"gateway"`
	DNS         []string      `yaml:"dns"`
	Search      []string      `yaml:"search"`
	Tags        []string      `yaml:"tags"`
	Token       runner.Secret `yaml:"token"`
	Description string        `yaml:"description"`
}

// FileError is what is wrong with a file of the author's, each finding with its place.
type FileError struct {
	File     string
	Findings []lint.Finding
}

func (e *FileError) Error() string {
	var b strings.Builder
	for _, f := range e.Findings {
		b.WriteString(f.Text(e.File))
	}
	return strings.TrimSpace(b.String())
}

// ReadHosts reads hosts.yaml; everything that is wrong with it comes back at once, as *FileError.
func ReadHosts(file string, data []byte) ([]Host, error) {
	root, findings := lint.Hosts(data)
	if len(findings) > 0 {
		return nil, &FileError{file, findings}
	}
	var doc struct {
		Defaults yaml.Node   `yaml:"defaults"`
		Hosts    []yaml.Node `yaml:"hosts"`
	}
	if root == nil {
		return nil, fmt.Errorf("%s: no machine is listed", file)
	}
	if err := root.Decode(&doc); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	hosts := make([]Host, len(doc.Hosts))
	for i := range hosts {
		if !doc.Defaults.IsZero() {
			if err := doc.Defaults.Decode(&hosts[i]); err != nil {
				return nil, fmt.Errorf("%s: defaults: %w", file, err)
			}
		}
		if err := doc.Hosts[i].Decode(&hosts[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if hw, err := net.ParseMAC(hosts[i].MAC); err == nil {
			hosts[i].MAC = hw.String()
		}
	}
	return hosts, nil
}

// Spec is the runner that the host will be, laid over what all hosts share.
func (h Host) Spec(base runner.Spec) runner.Spec {
	base.Name = h.Name
	if len(h.Tags) > 0 {
		base.Tags = h.Tags
	}
	if !h.Token.IsZero() {
		base.Token = h.Token
	}
	if h.Description != "" {
		base.Description = h.Description
	}
	return base
}

// NetworkConfig is version 2 of the host's network; nil where the image's own will do, which is DHCP.
func (h Host) NetworkConfig() ([]byte, error) { return networkConfig([]Host{h}) }

// networkConfig matches each host with addresses by its MAC address, so that one file serves them all: a machine applies
// what fits it, and any other asks DHCP.
func networkConfig(hosts []Host) ([]byte, error) {
	type route struct {
		To  string `yaml:"to"`
		Via string `yaml:"via"`
	}
	type names struct {
		Addresses []string `yaml:"addresses,omitempty"`
		Search    []string `yaml:"search,omitempty"`
	}
	type device struct {
		Match       map[string]string `yaml:"match"`
		SetName     string            `yaml:"set-name,omitempty"`
		DHCP4       bool              `yaml:"dhcp4,omitempty"`
		Addresses   []string          `yaml:"addresses,omitempty"`
		Routes      []route           `yaml:"routes,omitempty"`
		Nameservers *names            `yaml:"nameservers,omitempty"`
		Optional    bool              `yaml:"optional,omitempty"`
	}
	doc := struct {
		Version   int               `yaml:"version"`
		Ethernets map[string]device `yaml:"ethernets"`
	}{2, map[string]device{}}
	others := false
	for i, h := range hosts {
		if len(h.Addresses) == 0 {
			others = true
			continue
		}
		if h.MAC == "" {
			return nil, fmt.Errorf("host %s has addresses and no mac: its interface is told by it", h.Name)
		}
		// The interface gets a name: without netplan, cloud-init 22.4 finds it by that. Files are read in the order of names, and
		// "e*" below also fits the old names of renamed interfaces, so this one must come before it.
		name := fmt.Sprintf("dr%d", i)
		d := device{Match: map[string]string{"macaddress": h.MAC}, SetName: name, Addresses: h.Addresses, Optional: len(hosts) > 1}
		if h.Gateway != "" {
			to := "0.0.0.0/0" // netplan before 0.103 does not know the word default
			if strings.Contains(h.Gateway, ":") {
				to = "::/0"
			}
			d.Routes = []route{{to, h.Gateway}}
		}
		if len(h.DNS)+len(h.Search) > 0 {
			d.Nameservers = &names{h.DNS, h.Search}
		}
		doc.Ethernets[name] = d
	}
	if others && len(doc.Ethernets) > 0 {
		doc.Ethernets["e*"] = device{Match: map[string]string{"name": "e*"}, DHCP4: true, Optional: true}
	}
	if len(doc.Ethernets) == 0 {
		return nil, nil
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(doc); err != nil {
		return nil, err
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), judge(b.Bytes(), "network-config")
}

// judge holds what we wrote for a machine against what it will read.
func judge(data []byte, kind string) error {
	for _, f := range lint.Lint(data, lint.Options{Kind: kind}).Findings {
		if !f.Warning {
			return fmt.Errorf("the %s would not work: %s", kind, strings.TrimSpace(f.Text(kind)))
		}
	}
	return nil
}

// HostMeta is the meta-data of a host. Its instance-id follows from what the seed says, so a changed seed is a new machine
// to cloud-init and an unchanged one is not.
func HostMeta(name string, contents ...[]byte) Meta {
	sum := sha256.New()
	for _, c := range contents {
		_, _ = fmt.Fprintf(sum, "%d\n%s", len(c), c)
	}
	return Meta{InstanceID: fmt.Sprintf("%s-%x", strings.ToLower(name), sum.Sum(nil)[:6]), LocalHostname: name}
}

// HostSeeds are the seeds of many machines, in their order. They are made on all cores.
func HostSeeds(base runner.Spec, hosts []Host, o Options) ([][]iso9660.File, error) {
	out, errs := make([][]iso9660.File, len(hosts)), make([]error, len(hosts))
	each(len(hosts), runtime.GOMAXPROCS(0), func(i int) bool {
		out[i], errs[i] = hosts[i].seed(base, o)
		return true
	})
	return out, errors.Join(errs...)
}

// WriteSeeds writes the seeds of HostSeeds, each with the payload, to the files of the same order. It ends at the first failure.
// Several are written at once, because each waits for the disk.
func WriteSeeds(files []string, seeds [][]iso9660.File, payload []iso9660.File) error {
	errs := make([]error, len(files))
	each(len(files), 16, func(i int) bool {
		errs[i] = WriteISO(files[i], SeedLabel, slices.Concat(seeds[i], payload))
		return errs[i] == nil
	})
	return errors.Join(errs...)
}

// each does f for 0 to n-1, several at a time, until one says false.
func each(n, workers int, f func(int) bool) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if !f(i) {
					next.Store(int64(n))
				}
			}
		})
	}
	wg.Wait()
}

func (h Host) seed(base runner.Spec, o Options) ([]iso9660.File, error) {
	network, err := h.NetworkConfig()
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	files, err := Seed(h.Spec(base), network, o)
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	return files, nil
}

// Seed is the seed of one machine. network may be nil.
func Seed(s runner.Spec, network []byte, o Options) ([]iso9660.File, error) {
	if lacks := s.ValidateIdentity(); len(lacks) > 0 {
		return nil, lacks[0]
	}
	g, err := Generate(s, o)
	if err != nil {
		return nil, err
	}
	return SeedFiles(HostMeta(s.Name, g.Data, network), g.Data, network)
}

// SharedSeed is one seed for many machines. cloud-init knows no such thing: a boothook finds the machine's own part by
// its SMBIOS serial number or MAC address and writes /etc/dorunner/runner.yaml, at each boot, before anything reads it.
func SharedSeed(base runner.Spec, hosts []Host, o Options) ([]iso9660.File, error) {
	var files []iso9660.File
	var index strings.Builder
	for _, h := range hosts {
		if h.Serial == "" && h.MAC == "" {
			return nil, fmt.Errorf("host %s has neither serial nor mac: a seed for all cannot tell it apart", h.Name)
		}
		if h.Serial != "" {
			fmt.Fprintf(&index, "serial:%s %s\n", strings.ToLower(h.Serial), h.Name)
		}
		if h.MAC != "" {
			fmt.Fprintf(&index, "mac:%s %s\n", h.MAC, h.Name)
		}
		if lacks := h.Spec(base).ValidateIdentity(); len(lacks) > 0 {
			return nil, fmt.Errorf("host %s: %w", h.Name, lacks[0])
		}
		if err := checkSecrets(h.Spec(base), "metal"); err != nil {
			return nil, fmt.Errorf("host %s: %w", h.Name, err)
		}
		spec, err := runner.Encode(h.Spec(base), runner.EncodeOptions{AllowPlain: o.AllowPlain})
		if err != nil {
			return nil, fmt.Errorf("host %s: %w", h.Name, err)
		}
		files = append(files, iso9660.Bytes("hosts/"+h.Name+".yaml", spec, 0o400))
	}
	hook, err := templates.Read("cloudinit/choose-host.sh")
	if err != nil {
		return nil, err
	}
	hook = append([]byte("#cloud-boothook\n"), hook...)
	parts, err := sources(append([]Source{{"choose-host.sh", hook}}, o.Sources...))
	if err != nil {
		return nil, err
	}
	userData := message(parts)
	if err := judge(userData, "user-data"); err != nil {
		return nil, err
	}
	network, err := networkConfig(hosts)
	if err != nil {
		return nil, err
	}
	// "nocloud" is cloud-init's own word for no instance-id: first boot then tells machines apart by their machine-id.
	seed, err := SeedFiles(Meta{InstanceID: "nocloud"}, userData, network)
	if err != nil {
		return nil, err
	}
	return append(append(seed, iso9660.Bytes("hosts/index", []byte(index.String()), 0o400)), files...), nil
}
