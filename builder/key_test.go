package builder

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// gpg in a home of its own; keys are made by the real program.
func gpg(t *testing.T, home string, args ...string) string {
	t.Helper()
	c := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		t.Fatalf("gpg %v: %v\n%s", args, err, errs.String())
	}
	return string(out)
}

func TestCheckKey(t *testing.T) {
	if _, err := exec.LookPath("gpg"); err != nil {
		if testing.Short() {
			t.Skip("gpg is not installed")
		}
		t.Fatal("gpg is not installed: apt-get install gpg gpg-agent")
	}
	home, err := os.MkdirTemp("", "gpg") // short: its socket's path has a limit
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	defer func() { _ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() }()
	fingerprints := map[string]string{}
	for user, algo := range map[string]string{"good": "rsa2048", "evil": "ed25519"} {
		gpg(t, home, "--quick-gen-key", user, algo, "sign", "never")
		for l := range strings.Lines(gpg(t, home, "--with-colons", "--list-keys", user)) {
			if f := strings.Split(l, ":"); f[0] == "fpr" {
				fingerprints[user] = f[9]
				break
			}
		}
	}
	// A subkey to encrypt with: Docker's key has such company too.
	gpg(t, home, "--quick-add-key", fingerprints["good"], "rsa2048", "encrypt", "never")
	good := gpg(t, home, "--armor", "--export", "good")
	both := gpg(t, home, "--armor", "--export")
	evil := gpg(t, home, "--armor", "--export", "evil")
	secret := gpg(t, home, "--armor", "--export-secret-keys", "good")

	for name, c := range map[string]struct{ key, want string }{
		"good":              {good, ""},
		"with a header":     {strings.Replace(good, "BLOCK-----\n", "BLOCK-----\nComment: Docker\n", 1), ""},
		"of Windows":        {strings.ReplaceAll(good, "\n", "\r\n"), ""},
		"somebody else's":   {evil, "somebody else's repository"},
		"one more in it":    {both, "it is the key " + fingerprints["evil"]},
		"two blocks":        {good + evil, "more than one block"},
		"secret":            {secret, "no armoured OpenPGP key"},
		"secret, disguised": {strings.ReplaceAll(secret, "PRIVATE", "PUBLIC"), "secret key"},
		"a login page":      {"<html>", "no armoured OpenPGP key"},
		"empty":             {"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----\n", "no key"},
		"cut short":         {cut(good, 200), "damaged"},
	} {
		err := checkKey([]byte(c.key), fingerprints["good"])
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(dockerFingerprint) != 40 {
		t.Error("the pinned fingerprint is not one")
	}
}

// cut leaves the first n characters of a key's body.
func cut(key string, n int) string {
	at := strings.Index(key, "\n\n") + 2
	return key[:at+n/4*4] + "\n-----END PGP PUBLIC KEY BLOCK-----\n"
}

func FuzzCheckKey(f *testing.F) {
	f.Add([]byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQINBFit\n-----END PGP PUBLIC KEY BLOCK-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if checkKey(data, dockerFingerprint) == nil {
			t.Error("a key without the fingerprint passes")
		}
	})
}
