package builder

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// The files that describe a bake, beside its image.
const (
	ManifestFile = "manifest.json"
	ReportFile   = "report.html"
)

// writeResults writes the manifest and its report, each whole or not at all.
func writeResults(dir string, m *Manifest) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	report, err := renderReport(m)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(dir, ReportFile), report, 0o644); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, ManifestFile), append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	return nil
}
