package images

import (
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// Plan is everything decided: complete, valid and hashed. After Resolve nobody decides.
type Plan struct {
	Target   string // aws, azure or metal
	Platform string // which first boot is baked in: aws, azure or nocloud
	Spec     Spec   // with every default filled in
	Base     Base   // the catalogue's row
	Size     Size   // of the first size wanted; zero CPUs when the machine's size is unknown
	// Containers are the container images that the machine image holds, the runner's own first.
	Containers []Pull
	Scripts    []Script
	// Hash tells whether two plans bake the same image: 64 hex characters over everything that reaches it.
	Hash     string
	Warnings Problems
}

// Runner is who the machine will be, as far as it is known at baking time.
func (p *Plan) Runner() runner.Spec { return p.Spec.Runner }

// Script is one of the author's own scripts, read while resolving.
type Script struct {
	Path    string
	Content []byte
}

// Base is a row of the catalogue: one operating system and where each cloud keeps it.
type Base struct {
	OS, Version, Codename string
	AdminUser             string
	AMIOwner, AMIName     string // Canonical's account and name pattern ({{arch}} replaced)
	AzurePublisher        string
	AzureOffer, AzureSKU  string
	DiskURL, SHA256URL    string // cloud image and its published checksums; empty when it is built here
	CloudInit             string // the cloud-init that it ends with or ships, for the linter
	DockerRepo            bool   // Docker's apt repository serves it
}

// Size is a machine type and what it brings.
type Size struct {
	Name     string `json:"name,omitempty"`
	CPUs     int    `json:"cpus"`
	MemoryGB int    `json:"memory_gb"`
	Arch     string `json:"arch"`
}

// Problem is one thing wrong with what an author wrote.
type Problem struct {
	Path    string `json:"path"`              // dotted: "runner.tags[1]"
	Source  string `json:"source"`            // "dorunner.yaml:3:7", or the flag: "--size"
	Message string `json:"message"`           // one sentence
	Hint    string `json:"hint,omitempty"`    // what to do about it
	Snippet string `json:"snippet,omitempty"` // the offending line with a caret under it
	Warning bool   `json:"warning,omitempty"`

	line, column int // in the file, for the order of printing; 0 when from outside it
}

// Problems are reported all at once; as an error they print one below the other.
type Problems []Problem

// Override is a value from outside the file that wins over it, such as a flag's.
type Override struct {
	Path  string // "aws.sizes"
	Value any    // string, int, bool, []string or map[string]string, as YAML would give it
	From  string // how the author knows it: "--size"
}
