package cloudinit

import (
	"bytes"
	"encoding/base64"
	"strings"

	"gopkg.in/yaml.v3"
)

// Document is the part of #cloud-config that we write. Its zero value says nothing.
type Document struct {
	Hostname   string      `yaml:"hostname,omitempty"`
	WriteFiles []WriteFile `yaml:"write_files,omitempty"`
	RunCmd     [][]string  `yaml:"runcmd,omitempty"`
	// Autoinstall is read by Ubuntu's installer alone.
	Autoinstall *Autoinstall `yaml:"autoinstall,omitempty"`
}

// WriteFile is one file that cloud-init writes, owned by root.
type WriteFile struct {
	Path        string `yaml:"path"`
	Permissions string `yaml:"permissions"`        // octal in a string: "0600"
	Encoding    string `yaml:"encoding,omitempty"` // b64 or absent
	Content     string `yaml:"content"`
}

// NewWriteFile encodes content as base64 unless every machine reads it as it stands.
func NewWriteFile(path, permissions string, content []byte) WriteFile {
	f := WriteFile{Path: path, Permissions: permissions, Content: string(content)}
	if !plainText(content) {
		f.Encoding, f.Content = "b64", base64.StdEncoding.EncodeToString(content)
	}
	return f
}

// plainText is printable ASCII that nothing on the way takes for something else: cloud-init reads any user-data
// with "mime-version:" near its beginning as a MIME message.
func plainText(b []byte) bool {
	for _, c := range b {
		if (c < ' ' || c > '~') && c != '\n' {
			return false
		}
	}
	return !strings.Contains(strings.ToLower(string(b)), "mime-version:")
}

// Encode is the document as bytes, header first. The same document gives the same bytes.
func (d Document) Encode() ([]byte, error) {
	b := bytes.NewBufferString("#cloud-config\n")
	e := yaml.NewEncoder(b)
	e.SetIndent(2)
	if err := e.Encode(d); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}
