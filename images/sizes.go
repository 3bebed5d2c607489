package images

import (
	"fmt"
	"slices"
	"strings"
)

// The documented minimums of a runner: below pilot it is not supported, from production on nothing is said.
var (
	pilot      = Size{Name: "pilot", CPUs: 2, MemoryGB: 8}
	production = Size{Name: "production", CPUs: 4, MemoryGB: 16}
)

// minDiskGB is the documented minimum in GiB, for pilot and production alike; 300 are recommended.
const minDiskGB = 50

// family is a row of machine types: every size of it has the same memory per core.
type family struct {
	pattern string // of the name; # stands for the size
	perCPU  int    // GiB per core
	arch    string
	sizes   []step
}

type step struct {
	name string
	cpus int
}

var (
	ec2Sizes   = []step{{"large", 2}, {"xlarge", 4}, {"2xlarge", 8}, {"4xlarge", 16}, {"8xlarge", 32}, {"12xlarge", 48}, {"16xlarge", 64}}
	burstSizes = []step{{"large", 2}, {"xlarge", 4}, {"2xlarge", 8}}
	coreSizes  = []step{{"2", 2}, {"4", 4}, {"8", 8}, {"16", 16}, {"32", 32}, {"48", 48}, {"64", 64}}
	burstCores = []step{{"2", 2}, {"4", 4}, {"8", 8}, {"16", 16}, {"32", 32}}
)

// awsFamilies are the machine types of EC2 that runners are usually given, the documented ones first.
// Source: https://aws.amazon.com/ec2/instance-types/
var awsFamilies = []family{
	{"t3a.#", 4, "amd64", burstSizes},
	{"t3.#", 4, "amd64", burstSizes},
	{"t4g.#", 4, "arm64", burstSizes},
	{"m5.#", 4, "amd64", ec2Sizes},
	{"m5a.#", 4, "amd64", ec2Sizes},
	{"m6i.#", 4, "amd64", ec2Sizes},
	{"m6a.#", 4, "amd64", ec2Sizes},
	{"m7i.#", 4, "amd64", ec2Sizes},
	{"m7a.#", 4, "amd64", ec2Sizes},
	{"m6g.#", 4, "arm64", ec2Sizes},
	{"m7g.#", 4, "arm64", ec2Sizes},
	{"m8g.#", 4, "arm64", ec2Sizes},
	{"c5.#", 2, "amd64", ec2Sizes[:4]},
	{"c6i.#", 2, "amd64", ec2Sizes},
	{"c6a.#", 2, "amd64", ec2Sizes},
	{"c7i.#", 2, "amd64", ec2Sizes},
	{"c7g.#", 2, "arm64", ec2Sizes},
	{"r5.#", 8, "amd64", ec2Sizes},
	{"r6i.#", 8, "amd64", ec2Sizes},
	{"r7i.#", 8, "amd64", ec2Sizes},
	{"r7g.#", 8, "arm64", ec2Sizes},
}

// azureFamilies are their like on Azure.
// Source: https://learn.microsoft.com/azure/virtual-machines/sizes/overview
var azureFamilies = []family{
	{"Standard_D#as_v5", 4, "amd64", coreSizes},
	{"Standard_D#s_v5", 4, "amd64", coreSizes},
	{"Standard_D#ads_v5", 4, "amd64", coreSizes},
	{"Standard_D#ds_v5", 4, "amd64", coreSizes},
	{"Standard_D#ps_v5", 4, "arm64", coreSizes},
	{"Standard_D#s_v4", 4, "amd64", coreSizes},
	{"Standard_D#s_v3", 4, "amd64", coreSizes},
	{"Standard_E#s_v5", 8, "amd64", coreSizes},
	{"Standard_E#as_v5", 8, "amd64", coreSizes},
	{"Standard_E#ps_v5", 8, "arm64", coreSizes[:4]},
	{"Standard_F#s_v2", 2, "amd64", coreSizes},
	{"Standard_B#ms", 4, "amd64", burstCores[:4]},
	{"Standard_B#s_v2", 4, "amd64", burstCores},
	{"Standard_B#as_v2", 4, "amd64", burstCores},
	{"Standard_B#ps_v2", 4, "arm64", burstCores[:4]},
}

// awsSmall and azureSmall are types that people try and that no pattern gives.
var (
	awsSmall = []Size{
		{"t2.micro", 1, 1, "amd64"}, {"t2.small", 1, 2, "amd64"}, {"t2.medium", 2, 4, "amd64"}, {"t2.large", 2, 8, "amd64"}, {"t2.xlarge", 4, 16, "amd64"},
		{"t3.micro", 2, 1, "amd64"}, {"t3.small", 2, 2, "amd64"}, {"t3.medium", 2, 4, "amd64"},
		{"t3a.micro", 2, 1, "amd64"}, {"t3a.small", 2, 2, "amd64"}, {"t3a.medium", 2, 4, "amd64"},
		{"t4g.micro", 2, 1, "arm64"}, {"t4g.small", 2, 2, "arm64"}, {"t4g.medium", 2, 4, "arm64"},
	}
	azureSmall = []Size{
		{"Standard_B1s", 1, 1, "amd64"}, {"Standard_B1ms", 1, 2, "amd64"}, {"Standard_B2s", 2, 4, "amd64"},
	}
)

var (
	awsSizes   = tableOf(awsFamilies, awsSmall)
	azureSizes = tableOf(azureFamilies, azureSmall)
)

func tableOf(families []family, more []Size) []Size {
	var out []Size
	for _, f := range families {
		for _, s := range f.sizes {
			out = append(out, Size{strings.Replace(f.pattern, "#", s.name, 1), s.cpus, s.cpus * f.perCPU, f.arch})
		}
	}
	return append(out, more...)
}

// findSize looks a name up as the cloud writes it, whatever its case; Azure's Standard_ may be left out.
func findSize(table []Size, name string) (Size, bool) {
	i := slices.IndexFunc(table, func(s Size) bool {
		return strings.EqualFold(s.Name, name) || strings.EqualFold(s.Name, "Standard_"+name)
	})
	if i < 0 {
		return Size{Name: name}, false
	}
	return table[i], true
}

// sizes checks a list of machine types and writes their names as the cloud does. It returns the first.
func (r *rules) sizes(path string, list []string, table []Size) Size {
	var first Size
	for i, name := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		size, known := findSize(table, name)
		list[i] = size.Name
		if i == 0 {
			first = size
		}
		if !known {
			names := make([]string, len(table))
			for i, s := range table {
				names[i] = s.Name
			}
			hint := "the nearest are " + strings.Join(nearest(name, names, 3), ", ")
			if r.AllowSmall {
				r.warn(at, fmt.Sprintf("the size %q is not in the table, so its cores and memory are not checked", name), hint)
			} else {
				r.bad(at, fmt.Sprintf("unknown size %q", name), hint+"; or use --allow-small to take it unchecked")
			}
			continue
		}
		r.bigEnough(at, size)
		if arch := r.spec.Image.Arch; size.Arch != arch && slices.Contains(Arches, arch) {
			r.bad(at, fmt.Sprintf("%s is an %s machine and image.arch is %s", size.Name, size.Arch, arch), "choose one architecture for both")
		}
	}
	return first
}

// bigEnough holds a machine that will be a runner against the documented minimums.
func (r *rules) bigEnough(path string, s Size) {
	name := s.Name
	if name == "" {
		name = "the machine"
	}
	has := fmt.Sprintf("%s has %s and %d GB", name, cores(s.CPUs), s.MemoryGB)
	switch {
	case s.CPUs < pilot.CPUs || s.MemoryGB < pilot.MemoryGB:
		r.small(path, has+", less than the documented minimum of 2 cores and 8 GB", "choose a larger size")
	case s.CPUs < production.CPUs || s.MemoryGB < production.MemoryGB:
		r.warn(path, has+": enough for a pilot, production needs 4 cores and 16 GB", "")
	}
}

func cores(n int) string {
	if n == 1 {
		return "1 core"
	}
	return fmt.Sprintf("%d cores", n)
}

// archOf is the architecture of the first size, without judging it; the default when it is unknown.
func archOf(list []string, table []Size) string {
	if len(list) > 0 {
		if s, ok := findSize(table, list[0]); ok {
			return s.Arch
		}
	}
	return Arches[0]
}
