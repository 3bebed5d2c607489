package firstboot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// saltLength is how many hex characters a salt has.
const saltLength = 20

func (b *boot) vaultFiles() (content, salt string) {
	return b.spec.Vault.Path + "/vault.yml", b.spec.Vault.Path + "/vault.salt"
}

func (b *boot) vaultExists(context.Context) (bool, error) {
	content, salt := b.vaultFiles()
	for _, f := range []string{content, salt} {
		if _, err := os.Stat(b.h.path(f)); errors.Is(err, os.ErrNotExist) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	return true, nil
}

// makeVault writes what is missing of the pair. Files that exist are data, whatever they hold.
func (b *boot) makeVault(ctx context.Context) error {
	content, salt := b.vaultFiles()
	err := b.vaultFile(ctx, content, "vault.content", b.spec.Vault.Content, func() string { return "{}" })
	if err != nil {
		return err
	}
	return b.vaultFile(ctx, salt, "vault.salt", b.spec.Vault.Salt, func() string {
		random := make([]byte, saltLength/2)
		_, _ = rand.Read(random) // never fails: crypto/rand ends the program instead
		return hex.EncodeToString(random)
	})
}

func (b *boot) vaultFile(ctx context.Context, file, name string, from runner.Secret, otherwise func() string) error {
	if _, err := os.Lstat(b.h.path(file)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	text := ""
	if from.IsZero() {
		text = otherwise()
	} else {
		var err error
		if text, err = b.secret(ctx, name, from); err != nil {
			return err
		}
	}
	if err := b.h.writeFile(file, []byte(text+"\n")); err != nil {
		return fmt.Errorf("make the vault: %w", err)
	}
	return nil
}
