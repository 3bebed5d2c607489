package images

import (
	"slices"
	"strings"
)

// The publishers' accounts: Canonical's and Debian's AWS owner ids.
const (
	canonical = "099720109477"
	debian    = "136693071363"
)

// bases are the operating systems that are known, the documented one first. {{arch}} stands for the architecture;
// Azure has a SKU for each: amd64|arm64.
//
// Sources: https://cloud-images.ubuntu.com, https://wiki.debian.org/Cloud/AmazonEC2Image, Azure Marketplace.
var bases = []Base{
	{
		OS: "ubuntu-20.04", Version: "20.04", Codename: "focal", AdminUser: "ubuntu",
		AMIOwner: canonical, AMIName: "ubuntu/images/hvm-ssd/ubuntu-focal-20.04-{{arch}}-server-*",
		AzurePublisher: "Canonical", AzureOffer: "0001-com-ubuntu-server-focal", AzureSKU: "20_04-lts-gen2|20_04-lts-arm64",
		DiskURL:   "https://cloud-images.ubuntu.com/releases/focal/release/ubuntu-20.04-server-cloudimg-{{arch}}.img",
		SHA256URL: "https://cloud-images.ubuntu.com/releases/focal/release/SHA256SUMS",
		CloudInit: "24.4.1", DockerRepo: true,
	},
	{
		OS: "ubuntu-22.04", Version: "22.04", Codename: "jammy", AdminUser: "ubuntu",
		AMIOwner: canonical, AMIName: "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-{{arch}}-server-*",
		AzurePublisher: "Canonical", AzureOffer: "0001-com-ubuntu-server-jammy", AzureSKU: "22_04-lts-gen2|22_04-lts-arm64",
		DiskURL:   "https://cloud-images.ubuntu.com/releases/jammy/release/ubuntu-22.04-server-cloudimg-{{arch}}.img",
		SHA256URL: "https://cloud-images.ubuntu.com/releases/jammy/release/SHA256SUMS",
		CloudInit: "26.1", DockerRepo: true,
	},
	{
		OS: "ubuntu-24.04", Version: "24.04", Codename: "noble", AdminUser: "ubuntu",
		AMIOwner: canonical, AMIName: "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{{arch}}-server-*",
		AzurePublisher: "Canonical", AzureOffer: "ubuntu-24_04-lts", AzureSKU: "server|server-arm64",
		DiskURL:   "https://cloud-images.ubuntu.com/releases/noble/release/ubuntu-24.04-server-cloudimg-{{arch}}.img",
		SHA256URL: "https://cloud-images.ubuntu.com/releases/noble/release/SHA256SUMS",
		CloudInit: "26.1", DockerRepo: true,
	},
	{
		OS: "debian-12", Version: "12", Codename: "bookworm", AdminUser: "debian",
		AMIOwner: debian, AMIName: "debian-12-{{arch}}-*",
		AzurePublisher: "Debian", AzureOffer: "debian-12", AzureSKU: "12-gen2|12-arm64",
		CloudInit: "22.4.2", DockerRepo: true, // its disk is built here, with mmdebstrap
	},
}

// DefaultOS is the documented operating system.
const DefaultOS = "ubuntu-20.04"

// Arches are the architectures that are known, the default first.
var Arches = []string{"amd64", "arm64"}

// BaseNames are the operating systems that image.os may name.
func BaseNames() []string {
	var names []string
	for _, b := range bases {
		names = append(names, b.OS)
	}
	return names
}

// baseFor is the catalogue's row for an operating system and architecture.
func baseFor(os, arch string) (Base, bool) {
	i := slices.IndexFunc(bases, func(b Base) bool { return b.OS == os })
	if i < 0 {
		return Base{}, false
	}
	b := bases[i]
	for _, s := range []*string{&b.AMIName, &b.DiskURL} {
		*s = strings.ReplaceAll(*s, "{{arch}}", arch)
	}
	intel, arm, _ := strings.Cut(b.AzureSKU, "|")
	b.AzureSKU = intel
	if arch == "arm64" {
		b.AzureSKU = arm
	}
	return b, true
}
