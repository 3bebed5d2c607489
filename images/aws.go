package images

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// AWS is the target that bakes AMIs, in a temporary instance or from a disk of the metal target.
type AWS struct {
	Region          string            `yaml:"region"`     // default: the SDK's own chain
	Sizes           []string          `yaml:"sizes"`      // in order of preference; default [t3a.xlarge]
	BaseImage       string            `yaml:"base_image"` // an AMI id, instead of the newest of Canonical's
	CopyTo          []string          `yaml:"copy_to"`
	Share           []string          `yaml:"share"` // account ids or organization ARNs
	KMSKey          string            `yaml:"kms_key"`
	Subnet          string            `yaml:"subnet"`
	SecurityGroup   string            `yaml:"security_group"`
	InstanceProfile string            `yaml:"instance_profile"`
	Spot            bool              `yaml:"spot"`
	AllowCIDR       string            `yaml:"allow_cidr"` // who may reach the builder's SSH; default the caller's /32
	PrivateIP       bool              `yaml:"private_ip"`
	SSHHost         string            `yaml:"ssh_host"`
	SSHPort         int               `yaml:"ssh_port"`
	SSHTimeout      runner.Duration   `yaml:"ssh_timeout"` // how long the machine may take to answer; default 5m
	Keep            int               `yaml:"keep"`        // images to keep of this name; 0 keeps all
	Publish         string            `yaml:"publish"`     // an SSM parameter that gets the image id, last
	TestBoot        bool              `yaml:"test_boot"`
	KeepFailed      bool              `yaml:"keep_failed"`     // leave an image whose test boot failed
	DeprecateAfter  int               `yaml:"deprecate_after"` // days after which the image is deprecated; 0 never
	Protect         bool              `yaml:"protect"`         // from being deregistered
	Tags            map[string]string `yaml:"tags"`
	FromDisk        string            `yaml:"from_disk"` // a disk of the metal target, published by the EBS direct APIs
}

// awsTarget is the row of the AWS target.
var awsTarget = target{
	platform: func(*Spec) string { return "aws" },
	arch:     func(s *Spec) string { return archOf(s.AWS.Sizes, awsSizes) },
	defaults: func(s *Spec, _ Options) {
		size := "t3a.xlarge" // the documented one
		if s.Image.Arch == "arm64" {
			size = "t4g.xlarge"
		}
		fill(reflect.ValueOf(&s.AWS).Elem(), reflect.ValueOf(AWS{Sizes: []string{size}, SSHPort: 22, SSHTimeout: runner.Duration(5 * time.Minute)}))
		fill(reflect.ValueOf(&s.Image).Elem(), reflect.ValueOf(Image{DiskGB: minDiskGB}))
		s.Fleet.defaults(s.Runner, s.AWS.Sizes)
	},
	files: func(s *Spec) []*string { return []*string{&s.AWS.FromDisk} },
	base:  func(s *Spec) string { return s.AWS.BaseImage },
	check: func(r *rules) Size {
		a := r.spec.AWS
		size := r.sizes("aws.sizes", a.Sizes, awsSizes)
		r.cloudDisk()
		region := func(path, v string) { r.matches(path, v, awsRegion, "a region of AWS", "write it as eu-west-1") }
		region("aws.region", a.Region)
		each("aws.copy_to", a.CopyTo, region)
		each("aws.share", a.Share, func(path, v string) {
			r.matches(path, v, awsAccount, "an account id or the ARN of an organization", "write 12 digits in quotes, or arn:aws:organizations::...")
		})
		r.matches("aws.base_image", a.BaseImage, awsImage, "the id of an AMI", "write it as ami-0123456789abcdef0")
		r.matches("aws.subnet", a.Subnet, awsSubnet, "the id of a subnet", "write it as subnet-0123456789abcdef0")
		r.matches("aws.security_group", a.SecurityGroup, awsGroup, "the id of a security group", "write it as sg-0123456789abcdef0")
		r.matches("aws.publish", a.Publish, awsParameter, "the name of an SSM parameter", "write it as /dorunner/ami")
		r.network("aws.allow_cidr", a.AllowCIDR)
		r.between("aws.ssh_port", a.SSHPort, 1, 65535, "")
		r.between("aws.keep", a.Keep, 0, 1000, "")
		r.between("aws.deprecate_after", a.DeprecateAfter, 0, 3650, "")
		if len(a.Share) > 0 && a.KMSKey == "" {
			r.bad("aws.share", "an image under the account's own EBS key cannot be shared", "name a key of yours that the others may use with aws.kms_key, best by an alias that every region has")
		}
		for key := range a.Tags {
			if !awsTag.matches(key) || strings.HasPrefix(key, "aws:") {
				r.bad(child("aws.tags", key), fmt.Sprintf("%q cannot be a tag's key", key), "use letters, digits and _.:=+-@, not beginning with aws: (machines read their tags as file names)")
			}
		}
		r.fleet(awsSizes)
		each("fleet.subnets", r.spec.Fleet.Subnets, func(path, v string) {
			r.matches(path, v, awsSubnet, "the id of a subnet", "write it as subnet-0123456789abcdef0")
		})
		if image := r.spec.Fleet.Image; image != "latest" {
			r.matches("fleet.image", image, awsImage, "latest or the id of an AMI", "write it as ami-0123456789abcdef0")
		}
		return size
	},
}

const (
	awsRegion    = form(`^[a-z]{2}(-[a-z]+)+-[0-9]$`)
	awsAccount   = form(`^([0-9]{12}|arn:aws[a-z-]*:organizations::[0-9]{12}:(organization|ou)/[a-z0-9/-]+)$`)
	awsImage     = form(`^ami-[0-9a-f]{8,17}$`)
	awsSubnet    = form(`^subnet-[0-9a-f]{8,17}$`)
	awsGroup     = form(`^sg-[0-9a-f]{8,17}$`)
	awsParameter = form(`^/[a-zA-Z0-9._/-]{1,500}$`)
	awsTag       = form(`^[a-zA-Z0-9_.:=+@-]{1,127}$`)
)
