// Package templates holds every text file that leaves the program, embedded, and Render.
package templates

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"text/template"
)

//go:embed all:files
var files embed.FS

// Render fills the template at files/NAME with data; an unknown key is an error.
func Render(name string, data any) ([]byte, error) {
	text, err := files.ReadFile("files/" + name)
	if err != nil {
		return nil, fmt.Errorf("template %s: %w", name, err)
	}
	t, err := template.New(name).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("template %s: %w", name, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("template %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// Read gives a file as it is.
func Read(name string) ([]byte, error) { return files.ReadFile("files/" + name) }

// FS is all of them, for tests that hold each against a judge.
func FS() fs.FS {
	sub, err := fs.Sub(files, "files")
	if err != nil { // the directory is embedded above
		panic(err)
	}
	return sub
}
