package cloudinit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/cloudinit/iso9660"
)

// Meta is the NoCloud meta-data of one machine.
type Meta struct {
	InstanceID    string `yaml:"instance-id"` // required: without it every clone is the same machine to cloud-init
	LocalHostname string `yaml:"local-hostname,omitempty"`
}

// SeedLabel is what a NoCloud seed is found by.
const SeedLabel = "CIDATA"

// WriteSeed writes a NoCloud seed ISO (label CIDATA) to file, whole or not at all. networkConfig may be nil.
func WriteSeed(file string, m Meta, userData, networkConfig []byte) error {
	files, err := SeedFiles(m, userData, networkConfig)
	if err != nil {
		return err
	}
	return WriteISO(file, SeedLabel, files)
}

// SeedFiles are what a NoCloud seed holds. user-data is for root alone: it says who the machine is.
func SeedFiles(m Meta, userData, networkConfig []byte) ([]iso9660.File, error) {
	if m.InstanceID == "" {
		return nil, errors.New("a seed needs an instance-id: without one every machine is the same to cloud-init")
	}
	var meta bytes.Buffer
	e := yaml.NewEncoder(&meta)
	if err := errors.Join(e.Encode(m), e.Close()); err != nil {
		return nil, err
	}
	files := []iso9660.File{
		iso9660.Bytes("meta-data", meta.Bytes(), 0o444),
		iso9660.Bytes("user-data", userData, 0o400),
	}
	if networkConfig != nil {
		files = append(files, iso9660.Bytes("network-config", networkConfig, 0o400))
	}
	return files, nil
}

// WriteISO writes an image of files to file, whole or not at all; readable by the owner alone, as what it holds may be.
func WriteISO(file, label string, files []iso9660.File) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := renameio.NewPendingFile(file, renameio.WithPermissions(0o600), renameio.WithExistingPermissions())
	if err != nil {
		return err
	}
	defer func() { _ = f.Cleanup() }() // done where all went well
	stop := flush(f.File)
	err = iso9660.Write(f.File, label, files)
	stop()
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return f.CloseAtomicallyReplace()
}

// flush has the disk write what is there already while the rest is still being copied; the last flush is then short.
func flush(f *os.File) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-tick.C:
				_ = f.Sync() // what goes wrong here, the last one says
			case <-done:
				return
			}
		}
	})
	return func() { close(done); wg.Wait() }
}
