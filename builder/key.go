package builder

import (
	"crypto/sha1" //nolint:gosec // what fingerprints of version 4 keys are made with
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// dockerFingerprint is the key that signs Docker's apt repository, as https://docs.docker.com/engine/install/ubuntu/
// publishes it.
const dockerFingerprint = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"

// OpenPGP packet tags, RFC 9580 section 5.
const (
	packetSecretKey = 5
	packetPublicKey = 6
)

// checkKey makes sure that an armoured keyring holds the key of the given fingerprint and no other: apt would trust
// every key in it.
func checkKey(armoured []byte, fingerprint string) error {
	data, err := dearmour(armoured)
	if err != nil {
		return err
	}
	keys := 0
	for len(data) > 0 {
		tag, body, rest, err := packet(data)
		if err != nil {
			return err
		}
		data = rest
		if tag == packetSecretKey {
			return errors.New("it holds a secret key")
		}
		if tag != packetPublicKey {
			continue
		}
		keys++
		if len(body) == 0 || body[0] != 4 || len(body) > 0xffff {
			return errors.New("it holds a key of a form that is not understood")
		}
		// Section 5.5.4.2: SHA-1 over 0x99, the length and the packet.
		sum := sha1.New() //nolint:gosec // likewise
		sum.Write([]byte{0x99, byte(len(body) >> 8), byte(len(body))})
		sum.Write(body)
		if got := strings.ToUpper(hex.EncodeToString(sum.Sum(nil))); got != fingerprint {
			return fmt.Errorf("it is the key %s, expected %s: somebody else's repository answers there", got, fingerprint)
		}
	}
	if keys == 0 {
		return errors.New("it holds no key")
	}
	return nil
}

// dearmour decodes the one ASCII-armoured block in text.
func dearmour(text []byte) ([]byte, error) {
	const begin, end = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
	s := strings.ReplaceAll(string(text), "\r", "")
	_, s, ok1 := strings.Cut(s, begin+"\n")
	s, after, ok2 := strings.Cut(s, end)
	if !ok1 || !ok2 {
		return nil, errors.New("it is no armoured OpenPGP key; something else answers there, such as a proxy's login page")
	}
	if strings.Contains(after, "-----BEGIN") {
		return nil, errors.New("it holds more than one block of keys")
	}
	if _, body, found := strings.Cut("\n"+s, "\n\n"); found { // headers end at an empty line
		s = body
	}
	var b64 strings.Builder
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); !strings.HasPrefix(l, "=") { // the checksum
			b64.WriteString(l)
		}
	}
	data, err := base64.StdEncoding.DecodeString(b64.String())
	if err != nil {
		return nil, fmt.Errorf("the key is damaged: %w", err)
	}
	return data, nil
}

var errPacket = errors.New("the key is damaged: a packet is cut short")

// packet splits off the first OpenPGP packet, RFC 9580 section 4.2. Partial lengths do not occur in keys.
func packet(data []byte) (tag int, body, rest []byte, err error) {
	if len(data) < 2 || data[0]&0x80 == 0 {
		return 0, nil, nil, errPacket
	}
	var length, header int
	switch first := data[0]; {
	case first&0x40 != 0: // the new form
		tag = int(first & 0x3f)
		switch l := int(data[1]); {
		case l < 192:
			length, header = l, 2
		case l < 224 && len(data) >= 3:
			length, header = (l-192)<<8+int(data[2])+192, 3
		case l == 255 && len(data) >= 6:
			length, header = bigEndian(data[2:6]), 6
		default:
			return 0, nil, nil, errPacket
		}
	default:
		tag = int(first>>2) & 0x0f
		size := 1 << (first & 3) // 1, 2, 4 bytes; 8 stands for "until the end", which keys do not use
		if size > 4 || len(data) < 1+size {
			return 0, nil, nil, errPacket
		}
		length, header = bigEndian(data[1:1+size]), 1+size
	}
	if length > len(data)-header {
		return 0, nil, nil, errPacket
	}
	return tag, data[header : header+length], data[header+length:], nil
}

func bigEndian(b []byte) (n int) {
	for _, c := range b {
		n = n<<8 | int(c)
	}
	return n
}
