package builder

import (
	"math"
	"regexp"
	"strings"
	"testing"
	"time"
)

func sampleManifest() *Manifest {
	began := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	return &Manifest{
		PlanHash: strings.Repeat("ab", 32), Target: "metal", Platform: "nocloud", BakeID: "20260102-150405-a1b2c3",
		Base:     ManifestBase{OS: "debian-12", Source: "built here with mmdebstrap", Digest: "sha256:" + strings.Repeat("cd", 32)},
		Artifact: Artifact{Images: []ImageID{{ID: "out/dorunner-debian-12.qcow2", Format: "qcow2", Size: 612_000_000, SHA256: strings.Repeat("ef", 32)}}},
		Containers: []ManifestImage{
			{Ref: "dataopslive/dataops-runner:latest", Digest: "sha256:" + strings.Repeat("12", 32), Size: 412_000_000},
			{Ref: "dataopslive/dataops-utils-runner:latest", Digest: "sha256:" + strings.Repeat("34", 32), Size: 1_890_000_000},
		},
		Packages: []ManifestPackage{{"apparmor", "3.0.8-3"}, {"docker.io", "20.10.24+dfsg1-1+deb12u1"}},
		Docker:   "20.10.24+dfsg1", FirstBoot: strings.Repeat("56", 32), Audit: []AuditFinding{},
		Sizes: map[string]int64{"root_used": 1_420_000_000, "disk": 8 << 30},
		Steps: []ManifestStep{
			{"preflight", 0.2}, {"launch", 3.1}, {"provision/docker engine", 23.4}, {"provision/first boot", 0.3}, {"provision/container images", 4.8},
			{"provision", 28.6}, {"customize", 0}, {"prove", 1.2}, {"seal", 1.1}, {"stop", 0.9}, {"capture", 11.5}, {"distribute", 0.1},
		},
		Started: began, Finished: began.Add(47 * time.Second), Warnings: []string{"<b>bold</b> claims are shown as text"},
	}
}

func TestReport(t *testing.T) {
	m := sampleManifest()
	page, err := renderReport(m)
	if err != nil {
		t.Fatal(err)
	}
	got := string(page)
	for _, want := range []string{
		"debian-12 for metal, Docker 20.10.24", m.BakeID, m.PlanHash, "612 MB", "1.4 GB", "docker engine", "23.4s", "47.0s", "20.10.24&#43;dfsg1-1&#43;deb12u1",
		"clean", "&lt;b&gt;bold&lt;/b&gt;", "prefers-color-scheme: dark", m.Containers[1].Digest,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in the report", want)
		}
	}
	// One file that asks nobody for anything.
	if at := regexp.MustCompile(`(?i)<(script|link|img|iframe|object)\b|url\(|@import|https?://`).FindString(got); at != "" {
		t.Errorf("the report refers to something outside: %s", at)
	}
	if strings.Contains(got, "ZgotmplZ") {
		t.Error("a value was refused by the template's escaping")
	}
	m.Audit = []AuditFinding{{"/root/.ssh/id_rsa", "private key"}}
	if page, err = renderReport(m); err != nil || !strings.Contains(string(page), "1 found") || !strings.Contains(string(page), "/root/.ssh/id_rsa") {
		t.Errorf("findings are not shown: %v", err)
	}
}

func TestReportOfAnEmptyManifest(t *testing.T) {
	if _, err := renderReport(&Manifest{}); err != nil {
		t.Error(err)
	}
}

// Steps fill the line from end to end; parts lie within their step.
func TestTimeline(t *testing.T) {
	bars := timeline(sampleManifest().Steps)
	var end float64
	var whole bar
	for _, b := range bars {
		switch {
		case b.Part && (b.Left < whole.Left-1e-9 || b.Left+b.Width > whole.Left+whole.Width+1e-9):
			t.Errorf("part %+v is outside of %+v", b, whole)
		case !b.Part && math.Abs(b.Left-end) > 1e-9:
			t.Errorf("%s begins at %f, the one before ended at %f", b.Name, b.Left, end)
		}
		if !b.Part {
			whole, end = b, b.Left+b.Width
		}
	}
	if math.Abs(end-100) > 1e-9 || bars[2].Name != "provision" || bars[3].Name != "docker engine" {
		t.Errorf("ends at %f: %+v", end, bars)
	}
}
