package packer

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/dorunner/dorunner-bake/builder"
)

// Bundled holds dorunner-firstboot-linux-ARCH in a released plugin: `packer init` installs one file and no more.
var Bundled fs.FS

// findFirstBoot finds the first-boot program beside the plugin, else the one within it.
func findFirstBoot(arch string) (string, error) {
	file, err := builder.FindFirstBoot(arch)
	if err == nil || Bundled == nil {
		return file, err
	}
	program, berr := fs.ReadFile(Bundled, "dorunner-firstboot-linux-"+arch)
	if berr != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("unpacking the first-boot program: %w; or name one with firstboot", err)
	}
	sum := sha256.Sum256(program)
	file = filepath.Join(cache, "dorunner-bake", "firstboot", "dorunner-firstboot-linux-"+arch+"-"+hex.EncodeToString(sum[:8]))
	if info, err := os.Stat(file); err == nil && info.Size() == int64(len(program)) {
		return file, nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", fmt.Errorf("unpacking the first-boot program: %w", err)
	}
	return file, renameio.WriteFile(file, program, 0o755)
}
