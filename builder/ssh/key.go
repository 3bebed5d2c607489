package ssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Key is a key pair that lasts for one bake: the client's, or the host's that the machine is given to be known by.
type Key struct {
	Signer     ssh.Signer
	PrivatePEM string // OpenSSH format
	Authorized string // one line of authorized_keys or of a .pub file, without newline
}

// NewKey makes an Ed25519 key; comment names the bake.
func NewKey(comment string) (Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("making a key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return Key{}, fmt.Errorf("making a key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return Key{}, fmt.Errorf("writing a key: %w", err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " " + comment
	return Key{Signer: signer, PrivatePEM: string(pem.EncodeToMemory(block)), Authorized: line}, nil
}
