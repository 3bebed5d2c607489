package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "address")
	ctx, cancel := context.WithCancel(t.Context())
	in, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"-registration-token", "GR1", "-prefix", "/gitlab", "-address-file", file}, out)
	}()
	lines := json.NewDecoder(in)
	var hello, request struct {
		URL, Method, Path string
		Status            int
	}
	if err := lines.Decode(&hello); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || hello.URL != "http://"+strings.TrimSpace(string(b))+"/gitlab" {
		t.Errorf("%q %v, want the address of %s", b, err, hello.URL)
	}
	answered := make(chan error, 1)
	go func() {
		resp, err := http.Post(hello.URL+"/api/v4/runners", "application/json", strings.NewReader(`{"token":"GR1","tag_list":"x"}`))
		if err == nil {
			err = resp.Body.Close()
		}
		answered <- err
	}()
	if err := lines.Decode(&request); err != nil || request.Method != http.MethodPost || request.Path != "/api/v4/runners" || request.Status != http.StatusCreated {
		t.Errorf("%+v %v", request, err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
