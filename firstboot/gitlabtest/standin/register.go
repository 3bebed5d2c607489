package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

const defaultConfig = "/etc/gitlab-runner/config.toml"

// flags are gitlab-runner's: each has an environment variable as its default.
type flags struct {
	*flag.FlagSet
	getenv func(string) string
}

func (a *app) flags(command string) flags {
	f := flag.NewFlagSet(command, flag.ContinueOnError)
	f.SetOutput(a.out)
	return flags{f, a.getenv}
}

func (f flags) str(env, value string, names ...string) *string {
	if v := f.getenv(env); v != "" {
		value = v
	}
	p := new(string)
	for _, n := range names {
		f.StringVar(p, n, value, "$"+env)
	}
	return p
}

func (f flags) yes(env string, value bool, names ...string) *bool {
	if v := f.getenv(env); v != "" {
		value = v == "true" || v == "1"
	}
	p := new(bool)
	for _, n := range names {
		f.BoolVar(p, n, value, "$"+env)
	}
	return p
}

func (f flags) list(env, name string) *[]string {
	p := new([]string)
	fromEnv := f.getenv(env) != ""
	if fromEnv {
		*p = strings.Split(f.getenv(env), ",")
	}
	f.Func(name, "$"+env, func(v string) error {
		if fromEnv { // a flag replaces what the environment says
			*p, fromEnv = nil, false
		}
		*p = append(*p, v)
		return nil
	})
	return p
}

// register registers, or verifies an authentication token, and appends one [[runners]] to the configuration.
func (a *app) register(ctx context.Context, args []string) error {
	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	f := a.flags("register")
	file := f.str("CONFIG_FILE", defaultConfig, "config", "c")
	nonInteractive := f.yes("REGISTER_NON_INTERACTIVE", false, "non-interactive", "n")
	address := f.str("CI_SERVER_URL", "", "url", "u")
	registration := f.str("REGISTRATION_TOKEN", "", "registration-token", "r")
	token := f.str("CI_SERVER_TOKEN", "", "token", "t")
	caFile := f.str("CI_SERVER_TLS_CA_FILE", "", "tls-ca-file")
	name := f.str("RUNNER_NAME", hostname, "name", "description")
	executor := f.str("RUNNER_EXECUTOR", "", "executor")
	limit := f.Int("limit", 0, "")
	image := f.str("DOCKER_IMAGE", "", "docker-image")
	volumes := f.list("DOCKER_VOLUMES", "docker-volumes")
	pullPolicy := f.list("DOCKER_PULL_POLICY", "docker-pull-policy")
	privileged := f.yes("DOCKER_PRIVILEGED", false, "docker-privileged")
	noCache := f.yes("DOCKER_DISABLE_CACHE", false, "docker-disable-cache")
	tags := f.str("RUNNER_TAG_LIST", "", "tag-list")
	untagged := f.yes("REGISTER_RUN_UNTAGGED", false, "run-untagged")
	locked := f.yes("REGISTER_LOCKED", true, "locked")
	paused := f.yes("REGISTER_PAUSED", false, "paused")
	access := f.str("REGISTER_ACCESS_LEVEL", "", "access-level")
	note := f.str("REGISTER_MAINTENANCE_NOTE", "", "maintenance-note")
	timeout := f.Int("maximum-timeout", 0, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return errors.New("unexpected argument " + f.Arg(0))
	}
	a.info("Running in system-mode.")
	if !a.before(19) {
		a.info("")
	}

	c, err := readConfig(*file)
	if errors.Is(err, fs.ErrNotExist) {
		c = config{Concurrent: 1}
	} else if err != nil {
		return panicf("%w", err)
	}
	if !*nonInteractive {
		return panicf("EOF") // there is nobody to ask
	}
	if *address == "" {
		return panicf("The url needs to be entered")
	}
	serverSide := *tags != "" || given(f.FlagSet, "locked", "run-untagged", "access-level", "maximum-timeout", "paused", "maintenance-note") ||
		slices.ContainsFunc([]string{"REGISTER_LOCKED", "REGISTER_RUN_UNTAGGED", "REGISTER_ACCESS_LEVEL", "REGISTER_PAUSED", "REGISTER_MAINTENANCE_NOTE"}, func(e string) bool { return a.getenv(e) != "" })
	if strings.HasPrefix(*registration, "glrt-") && *token == "" {
		if serverSide && a.before(17) {
			return errServerSide
		}
		if serverSide {
			a.log("WARNING", "You have specified an authentication token in the legacy parameter --registration-token. This has triggered the 'legacy-compatible registration process' which has resulted in the following command line parameters being ignored: --locked, --access-level, --run-untagged, --maximum-timeout, --paused, --tag-list, and --maintenance-note.")
		}
		*token = *registration
	} else if strings.HasPrefix(*token, "glrt-") && serverSide {
		return errServerSide
	}

	api, err := a.client(*file, *address, *caFile)
	if err != nil {
		return panicf("%w", err)
	}
	var who identity
	if *token != "" {
		id, err := systemID(*file)
		if err != nil {
			return panicf("%w", err)
		}
		if who, err = a.check(ctx, api, *token, *name, id); err != nil {
			return err
		}
	} else {
		if *registration == "" {
			return panicf("The registration-token needs to be entered")
		}
		if !a.before(17) {
			a.log("WARNING", "Support for registration tokens and runner parameters in the 'register' command has been deprecated in GitLab Runner 15.6 and will be replaced with support for authentication tokens. For more information, see https://docs.gitlab.com/ci/runners/new_creation_workflow/")
		}
		who, err = a.enlist(ctx, api, *registration, *name, map[string]any{
			"token": *registration, "info": a.about(""), "description": *name, "tag_list": *tags, "run_untagged": *untagged || *tags == "", "locked": *locked,
			"paused": *paused, "access_level": *access, "maintenance_note": *note, "maximum_timeout": *timeout,
		})
		if err != nil {
			return err
		}
	}

	if *executor != "docker" && *executor != "shell" {
		return panicf("Invalid executor specified")
	}
	if *executor == "docker" && *image == "" {
		return panicf("The docker-image needs to be entered")
	}
	if !*noCache && !slices.ContainsFunc(*volumes, func(v string) bool { return v == "/cache" || strings.HasSuffix(v, ":/cache") }) {
		*volumes = append(*volumes, "/cache")
	}
	r := runnerConfig{Name: *name, URL: *address, ID: who.ID, Token: who.Token, TokenObtainedAt: time.Now().UTC(), TLSCAFile: *caFile, Executor: *executor, Limit: *limit,
		Docker: docker{Image: *image, Privileged: *privileged, DisableCache: *noCache, Volumes: *volumes, PullPolicy: *pullPolicy}}
	if who.Expires != nil {
		r.TokenExpiresAt = *who.Expires
	}
	c.Runners = append(c.Runners, r)
	if err := a.saveConfig(*file, c); err != nil {
		return panicf("%w", err)
	}
	a.info("Runner registered successfully. Feel free to start it, but if it's running already the config should be automatically reloaded!")
	a.info(`Configuration (with the authentication token) was saved in "` + *file + `"`)
	return nil
}

var errServerSide = errors.New("Runner configuration other than name and executor configuration is reserved (specifically --locked, --access-level, --run-untagged, --maximum-timeout, --paused, --tag-list, and --maintenance-note) and cannot be specified when registering with a runner authentication token. This configuration is specified on the GitLab server. Please try again without specifying any of those arguments.") //nolint:revive // the words of gitlab-runner

func given(f *flag.FlagSet, names ...string) bool {
	found := false
	f.Visit(func(g *flag.Flag) { found = found || slices.Contains(names, g.Name) })
	return found
}

// enlist is POST /runners.
func (a *app) enlist(ctx context.Context, api *client, token, name string, in map[string]any) (identity, error) {
	for k, v := range in {
		if v == "" || v == 0 {
			delete(in, k)
		}
	}
	const doing = "Registering runner..."
	var who identity
	switch r := api.registration(ctx, http.MethodPost, "runners", in); {
	case r.status == http.StatusCreated && json.Unmarshal(r.body, &who) == nil:
		a.info(doing+" succeeded", a.of(token, name)...)
		return who, nil
	case r.status == http.StatusForbidden:
		a.error(doing+" forbidden (check registration token)", a.of(token, name, a.status(r)...)...)
	case r.status == 0:
		a.error(doing+" error", a.of(token, name, "status", r.text)...)
	default:
		a.error(doing+" failed", a.of(token, name, "status", r.text)...)
	}
	return identity{}, panicf("Failed to register the runner.")
}

// check is POST /runners/verify for a runner that was made in the UI.
func (a *app) check(ctx context.Context, api *client, token, name, systemID string) (identity, error) {
	const doing = "Verifying runner..."
	who := identity{Token: token}
	switch r := api.registration(ctx, http.MethodPost, "runners/verify", a.verification(token, systemID)); {
	case r.status == http.StatusOK && json.Unmarshal(r.body, &who) == nil:
		a.info(doing+" is valid", a.of(token, name)...)
		return who, nil
	case r.status == http.StatusForbidden:
		level := "ERROR"
		if !a.before(19) { // it lost its level there
			level = ""
		}
		a.log(level, doing+" is not valid", a.of(token, name)...)
	case r.status == 0:
		a.error(doing+" error", a.of(token, name, "status", r.text)...)
	default:
		a.error(doing+" failed", a.of(token, name, "status", r.text)...)
	}
	return identity{}, panicf("Failed to verify the runner.")
}

// verification is what POST /runners/verify is sent.
func (a *app) verification(token, systemID string) map[string]any {
	in := map[string]any{"token": token, "system_id": systemID}
	if !a.before(19) {
		in["info"] = a.about("")
	}
	return in
}

// status is said of a refused registration too, in newer versions.
func (a *app) status(r result) []any {
	if a.before(19) {
		return nil
	}
	return []any{"status", r.text}
}

// verify asks whether GitLab still knows the configured runners; with --delete it drops those it does not.
func (a *app) verify(ctx context.Context, args []string) error {
	f := a.flags("verify")
	file := f.str("CONFIG_FILE", defaultConfig, "config", "c")
	remove := f.Bool("delete", false, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	c, err := readConfig(*file)
	if err != nil {
		return err
	}
	id, err := systemID(*file)
	if err != nil {
		return err
	}
	keep, failed := c.Runners[:0:0], false
	for _, r := range c.Runners {
		api, err := a.client(*file, r.URL, r.TLSCAFile)
		if err != nil {
			return err
		}
		got := api.registration(ctx, http.MethodPost, "runners/verify", a.verification(r.Token, id))
		if got.status == http.StatusForbidden {
			a.error("Verifying runner... is removed", a.of(r.Token, r.Name)...)
			failed = true
			continue
		}
		if got.status == http.StatusOK {
			how := "is alive"
			if !a.before(19) {
				how = "is valid"
			}
			a.info("Verifying runner... "+how, a.of(r.Token, r.Name)...)
		} else {
			a.error("Verifying runner... failed", a.of(r.Token, r.Name, "status", got.text)...)
		}
		keep = append(keep, r)
	}
	if !failed {
		return nil
	}
	if !*remove {
		return errors.New("Failed to verify runners") // the words of gitlab-runner
	}
	c.Runners = keep
	return a.saveConfig(*file, c)
}

// unregister removes runners from the server and, where that worked, from the configuration. It exits 0 whatever
// the server said.
func (a *app) unregister(ctx context.Context, args []string) error {
	f := a.flags("unregister")
	file := f.str("CONFIG_FILE", defaultConfig, "config", "c")
	all := f.Bool("all-runners", false, "")
	name := f.str("RUNNER_NAME", "", "name", "n")
	address := f.str("CI_SERVER_URL", "", "url", "u")
	token := f.str("CI_SERVER_TOKEN", "", "token", "t")
	if err := f.Parse(args); err != nil {
		return err
	}
	c, err := readConfig(*file)
	if err != nil {
		return err
	}
	id, err := systemID(*file)
	if err != nil {
		return err
	}
	keep := c.Runners[:0:0]
	for _, r := range c.Runners {
		chosen := *all || (*name != "" && r.Name == *name) || (*token != "" && r.Token == *token && (*address == "" || r.URL == *address))
		if !chosen || !a.dismiss(ctx, *file, r, id) {
			keep = append(keep, r)
		}
	}
	c.Runners = keep
	if err := a.saveConfig(*file, c); err != nil {
		return err
	}
	a.info("Updated " + *file)
	return nil
}

// dismiss removes one runner: the manager of a shared one, the whole of one of our own.
func (a *app) dismiss(ctx context.Context, file string, r runnerConfig, systemID string) bool {
	api, err := a.client(file, r.URL, r.TLSCAFile)
	if err != nil {
		a.error("Failed to unregister runner " + r.Name)
		return false
	}
	path, in, doing := "runners", map[string]any{"token": r.Token}, "Unregistering runner from GitLab"
	if strings.HasPrefix(r.Token, "glrt-") {
		path, doing = "runners/managers", "Unregistering runner manager from GitLab"
		in["system_id"] = systemID
	}
	switch got := api.json(ctx, http.MethodDelete, path, in); got.status {
	case http.StatusNoContent:
		a.info(doing+" succeeded", a.of(r.Token, r.Name)...)
		return true
	case http.StatusForbidden:
		a.error(doing+" forbidden", a.of(r.Token, r.Name)...)
	default:
		a.error(doing+" failed", a.of(r.Token, r.Name, "status", got.text)...)
	}
	a.error("Failed to unregister runner " + r.Name)
	return false
}
