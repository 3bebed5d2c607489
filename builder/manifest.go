package builder

import "time"

// Manifest says what was baked. Two bakes of one plan differ only in Times, BakeID and image ids.
type Manifest struct {
	PlanHash   string            `json:"plan_hash"`
	Target     string            `json:"target"`
	Platform   string            `json:"platform"`
	BakeID     string            `json:"bake_id"`
	Base       ManifestBase      `json:"base"`
	Artifact   Artifact          `json:"artifact"`
	Containers []ManifestImage   `json:"containers"`
	Packages   []ManifestPackage `json:"packages"`
	Docker     string            `json:"docker"`    // engine version
	FirstBoot  string            `json:"firstboot"` // sha256 of the baked dorunner-firstboot
	Audit      []AuditFinding    `json:"audit"`     // empty: the sealed machine is clean
	Sizes      map[string]int64  `json:"sizes"`     // bytes: root_used, disk, per format
	Steps      []ManifestStep    `json:"steps"`
	Started    time.Time         `json:"started"`
	Finished   time.Time         `json:"finished"`
	Warnings   []string          `json:"warnings,omitempty"`
}

// ManifestBase is the operating system image that the bake began with.
type ManifestBase struct {
	OS     string `json:"os"`
	Source string `json:"source"`           // URL, file, AMI id or URN
	Digest string `json:"digest,omitempty"` // sha256 of a file, or the cloud's version
}

// ManifestImage is one container image in the machine image.
type ManifestImage struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest"` // repository digest when pulled, else the image id
	Size   int64  `json:"size"`   // bytes, unpacked
}

// ManifestPackage is one installed package of the operating system.
type ManifestPackage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// ManifestStep is one step's time.
type ManifestStep struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// AuditFinding is something of one machine that the seal left behind.
type AuditFinding struct {
	Path string `json:"path"`
	What string `json:"what"`
}
