package aws

import (
	"context"
	"errors"

	"github.com/dorunner/dorunner-bake/builder"
)

type disk struct{}

const uploads = 64

func (d *disk) check() error { return nil }

func (c *Cloud) publish(context.Context, *builder.Env) (builder.Artifact, error) {
	return builder.Artifact{}, errors.New("not yet")
}

func (c *Cloud) BakedElsewhere() (*builder.Manifest, bool) { return nil, c.disk != nil }
