//go:build !linux

package metal

import (
	"context"
	"errors"

	"github.com/dorunner/dorunner-bake/builder"
)

// Only Linux can mount the disk; elsewhere the vm method bakes.
var errNotLinux = errors.New("the offline method works on Linux: use --method vm")

type offline struct{}

func (*offline) check(context.Context, *builder.Env) []error { return []error{errNotLinux} }
func (*offline) start(context.Context, *builder.Env, base) (builder.Guest, error) {
	return nil, errNotLinux
}
func (*offline) stop(context.Context, *builder.Env) error { return errNotLinux }
func (*offline) disk() (string, string, bool)             { return "", "", false }
func (*offline) console() string                          { return "" }

var errNoDebian = errors.New("a debian-12 disk is built on Linux: give one with --base")

func checkDebian(*builder.Env) []error { return []error{errNoDebian} }

func debianBase(context.Context, *builder.Env, string) (base, error) { return base{}, errNoDebian }

func removeCgroup(string) error { return nil }
