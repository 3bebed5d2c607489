// Command server is package gitlabtest as a process, for shells: it prints the address it listens on as its first
// line of JSON, then one line per request.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gitlab stand-in:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("server", flag.ContinueOnError)
	listen := f.String("listen", "127.0.0.1:0", "address to listen on")
	token := f.String("token", "", "authentication token (glrt-...) of a runner made in the UI")
	tag := f.String("tag", "trivial", "tag of that runner")
	registration := f.String("registration-token", "", "registration token to accept")
	prefix := f.String("prefix", "", "relative URL root, such as /gitlab")
	job := f.String("job", "", "queue one trivial job with this tag")
	addressFile := f.String("address-file", "", "file to write the address to, once it listens")
	log := f.Bool("log", true, "print one line of JSON per request")
	if err := f.Parse(args); err != nil {
		return err
	}
	logger := slog.New(slog.NewJSONHandler(out, nil))
	o := gitlabtest.Options{Prefix: *prefix}
	if *log {
		o.Log = logger
	}
	if *registration != "" {
		o.RegistrationTokens = []string{*registration}
	}
	s := gitlabtest.New(o)
	if *token != "" {
		s.AddRunner(gitlabtest.Runner{Token: *token, Description: "made in the UI", Tags: []string{*tag}})
	}
	if *job != "" {
		s.QueueJob(gitlabtest.Job{Tags: []string{*job}, Script: []string{"echo trivial"}})
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	if *addressFile != "" {
		tmp := *addressFile + ".new"
		if err := errors.Join(os.WriteFile(tmp, []byte(l.Addr().String()+"\n"), 0o600), os.Rename(tmp, *addressFile)); err != nil {
			return err
		}
	}
	logger.Info("listening", "url", "http://"+l.Addr().String()+*prefix)
	server := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
