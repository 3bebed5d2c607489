package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/images"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestMain gives the scripts two programs: dorunner-bake, and bake-nowhere, whose only target costs nothing.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"dorunner-bake": main,
		"bake-nowhere": func() {
			s := streams{os.Stdin, os.Stdout, os.Stderr}
			os.Exit(run(context.Background(), os.Args[1:], s, []target{nowhere()}))
		},
	})
}

// TestScripts runs one script per promise. None needs root, Docker or QEMU.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Cmds:          map[string]func(*testscript.TestScript, bool, []string){"code": code, "interrupted": interrupted},
		Setup: func(e *testscript.Env) error {
			self, err := os.Executable()
			e.Setenv("SELF", self) // a Linux program for this architecture, where one is asked for
			e.Setenv("ARCH", runtime.GOARCH)
			e.Setenv("DORUNNER_STATE_DIR", filepath.Join(e.WorkDir, "state"))
			e.Setenv("HOME", e.WorkDir)
			return err
		},
	})
}

// code runs a program that must exit with a given code: code N PROGRAM ARGS...
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N program args...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// interrupted runs a program, sends it a signal once it says "waiting", and again when it has answered the first, so often as
// is asked for. Its exit code must be the documented one: interrupted N SIGNAL PROGRAM ARGS...
func interrupted(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: interrupted N INT|TERM program args...")
	}
	path, err := exec.LookPath(args[2])
	ts.Check(err)
	cmd := exec.Command(path, args[3:]...)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = append(os.Environ(), "NOWHERE="+ts.Getenv("NOWHERE"), "DORUNNER_STATE_DIR="+ts.Getenv("DORUNNER_STATE_DIR"))
	pipe, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	sig := map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM}[args[1]]
	left, want := args[0], exitFailure
	if left == "2" {
		want = exitInterrupted
	}
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		_, _ = fmt.Fprintln(ts.Stderr(), lines.Text())
		first, second := strings.Contains(lines.Text(), "waiting"), strings.HasPrefix(lines.Text(), "interrupted:")
		if first || second && left == "2" {
			ts.Check(cmd.Process.Signal(sig))
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != want {
		ts.Fatalf("ended with %v, want exit code %d", err, want)
	}
}

// nowhere is a target that costs nothing: its images are names, its disk a directory. How it fails, the environment says.
func nowhere() target {
	t := metalTarget()
	t.cloud = func(context.Context, *images.Plan) (builder.Cloud, error) {
		return nowhereCloud{fail: os.Getenv("NOWHERE")}, nil
	}
	t.name, t.short = "metal", "Bake nowhere"
	return t
}

type nowhereCloud struct{ fail string }

func (c nowhereCloud) Preflight(context.Context, *builder.Env) error {
	if c.fail == "preflight" {
		return errors.New("there is no room nowhere")
	}
	return nil
}

// BakedElsewhere skips everything that needs a machine.
func (c nowhereCloud) BakedElsewhere() (*builder.Manifest, bool) { return nil, true }

func (c nowhereCloud) Launch(context.Context, *builder.Env) (builder.Guest, error) {
	return nil, errors.New("never")
}

func (c nowhereCloud) Stop(context.Context, *builder.Env) error { return nil }

func (c nowhereCloud) Capture(ctx context.Context, env *builder.Env) (builder.Artifact, error) {
	id := builder.ImageID{ID: "image-1", Format: "qcow2"}
	record := func(undo builder.Undo) error { return env.Ledger.Record(builder.Entry{Kind: "thing", ID: "t-1"}, undo) }
	switch c.fail {
	case "wait": // until cancelled
		if err := record(func(context.Context, builder.Entry) error { return nil }); err != nil {
			return builder.Artifact{}, err
		}
		env.Progress.Info("waiting")
		<-ctx.Done()
		return builder.Artifact{}, context.Cause(ctx)
	case "stuck": // for ever, giving back too
		if err := record(func(context.Context, builder.Entry) error { select {} }); err != nil {
			return builder.Artifact{}, err
		}
		env.Progress.Info("waiting")
		<-ctx.Done()
		return builder.Artifact{}, context.Cause(ctx)
	case "capture":
		return builder.Artifact{}, errors.New("the disk is full")
	}
	return builder.Artifact{Images: []builder.ImageID{id, {ID: "image-2", Format: "raw"}}}, nil
}

func (c nowhereCloud) Distribute(_ context.Context, _ *builder.Env, a builder.Artifact) (builder.Artifact, error) {
	return a, nil
}

// TestInitIsASpec: what init writes is valid for the targets that it names.
func TestInitIsASpec(t *testing.T) {
	text := output(t, "init", "-")
	golden(t, "testdata/golden/init.yaml", text)
	s, problems := images.Load("dorunner.yaml", []byte(text))
	if len(problems) > 0 {
		t.Error(problems)
	}
	for _, target := range s.Targets() {
		if _, err := images.Resolve(s, target, images.Options{}); err != nil {
			t.Error(err)
		}
	}
}

// TestValidateOfEveryTarget holds the effective plan of each target.
func TestValidateOfEveryTarget(t *testing.T) {
	specs := map[string]string{
		"aws":   "aws: {region: eu-west-1, size: t3a.large, copy_to: [us-east-1]}\nfleet: {name: many, max: 3}\n",
		"azure": "azure: {resource_group: runners, gallery: g, definition: d}\n",
		"metal": "metal: {method: offline, formats: [qcow2, vhd]}\n",
	}
	for _, target := range targets() {
		t.Run(target.name, func(t *testing.T) {
			spec, ok := specs[target.name]
			if !ok {
				t.Fatal("a target without a golden plan")
			}
			dir := t.TempDir()
			file := filepath.Join(dir, "dorunner.yaml")
			spec = "runner: {name: dataops-runner-london, url: 'https://app.dataops.live', token: 'ssm:/t'}\n" + spec
			if err := os.WriteFile(file, []byte(spec), 0o644); err != nil {
				t.Fatal(err)
			}
			for ext, args := range map[string][]string{"yaml": nil, "json": {"--json"}} {
				got := output(t, append([]string{"validate", "-f", file, target.name}, args...)...)
				got = strings.ReplaceAll(strings.ReplaceAll(got, dir, "DIR"), ",\"", ",\n\"")
				golden(t, filepath.Join("testdata", "golden", "validate-"+target.name+"."+ext), got)
			}
		})
	}
}

// TestEffectivePlanIsASpec: what validate prints, validate accepts, and it means the same.
func TestEffectivePlanIsASpec(t *testing.T) {
	once := output(t, "validate", "metal", "-f", "testdata/golden/init.yaml")
	file := filepath.Join(t.TempDir(), "dorunner.yaml")
	if err := os.WriteFile(file, []byte(once), 0o644); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(once, output(t, "validate", "-f", file)); diff != "" {
		t.Error(diff)
	}
}

// TestHelpOfEveryVerb: every verb explains itself, gives an example, and every flag has words.
func TestHelpOfEveryVerb(t *testing.T) {
	root := rootCmd(&app{streams: streams{strings.NewReader(""), io.Discard, io.Discard}}, targets())
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		path := strings.TrimPrefix(c.CommandPath(), "dorunner-bake ")
		if c.Short == "" || c.Args == nil {
			t.Errorf("%s: no explanation, or any arguments are taken", path)
		}
		first := c.GroupID != "" && !c.HasSubCommands() // the verbs that everybody meets
		if first && (c.Long == "" || !strings.Contains(c.Example, "dorunner-bake "+path)) {
			t.Errorf("%s: no long help or no example", path)
		}
		for line := range strings.Lines(c.Flags().FlagUsages()) {
			if len(strings.Fields(line)) < 3 {
				t.Errorf("%s: a flag without words: %s", path, line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	for _, c := range root.Commands() {
		walk(c)
	}
}

// output runs a command in this process and gives its standard output.
func output(t *testing.T, args ...string) string {
	t.Helper()
	var out, err strings.Builder
	if code := Main(t.Context(), args, streams{strings.NewReader(""), &out, &err}); code != 0 {
		t.Fatalf("%v: exit code %d\n%s", args, code, err.String())
	}
	return out.String()
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: run go test -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-golden +got):\n%s", file, diff)
	}
}
