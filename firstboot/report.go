package firstboot

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// StatusFile holds the machine's runner.Report, for whoever is on the machine.
const StatusFile = "/run/dorunner/status.json"

// ReadStatus reads the machine's last report; ErrNotExist when nothing has booted yet.
func ReadStatus(h *Host) (runner.Report, error) {
	var r runner.Report
	data, err := os.ReadFile(h.path(StatusFile))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w", StatusFile, err)
	}
	return r, nil
}

// tell makes a change of state known: status.json and one line on the console.
func (b *boot) tell() {
	b.writeStatus()
	line := b.report.ConsoleLine()
	if _, err := b.h.Console.Write([]byte(line)); err != nil {
		b.logf("the console takes no line: %v", err)
	}
	b.h.logf("%s", line[:len(line)-1])
}

// writeStatus never fails a boot: a machine that cannot write to /run has said so elsewhere.
func (b *boot) writeStatus() {
	r := &b.report
	r.Time, r.Uptime = b.h.Now().UTC().Truncate(time.Millisecond), b.h.Uptime()
	data, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = writeVolatile(b.h.path(StatusFile), append(data, '\n'))
	}
	if err != nil {
		b.logf("%s: %v", StatusFile, err)
	}
}

// writeVolatile replaces a file in memory, readable by everybody: nothing to fsync.
func writeVolatile(p string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	tmp := p + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, p)
}

// elapsed is the time since the first step, in seconds to the millisecond.
func (b *boot) elapsed() float64 {
	return float64(time.Since(b.began).Milliseconds()) / 1000
}
