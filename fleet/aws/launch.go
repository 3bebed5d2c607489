// Package aws runs machines on EC2 from AMIs that were baked.
package aws

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/dorunner/dorunner-bake/builder/aws"
	"github.com/dorunner/dorunner-bake/fleet"
)

// LaunchOptions say what to start and who the machines are.
type LaunchOptions struct {
	Config          sdk.Config
	Image           string // an AMI's id, or latest
	Family          string // names of images that latest chooses from
	Arch            string // amd64 or arm64
	Count           int
	Sizes           []string // in order of preference
	Subnet          string   // default: the default VPC's
	SecurityGroup   string   // default: the VPC's
	InstanceProfile string   // lets the machines read their token
	KMSKey          string
	DiskGB          int
	VolumeRate      int // MiB/s at which EBS fetches the disk from the start, 100 to 300; 0 leaves it lazy
	Name            string
	Tags            map[string]string
	UserData        []byte
	Token           string // makes repeated calls one
	Info            func(format string, args ...any)
}

// userDataLimit is what every API of EC2 takes, in bytes before base64.
const userDataLimit = 16383

// Launch starts the machines, all or none, in the first size that there is room for.
func Launch(ctx context.Context, o LaunchOptions) ([]*fleet.Machine, error) {
	region := o.Config.Region
	if len(o.UserData) > userDataLimit {
		return nil, fmt.Errorf("the user-data has %d bytes and EC2 takes %d: shorten the spec", len(o.UserData), userDataLimit)
	}
	house := aws.NewHouse(o.Config)
	var image aws.Image
	var err error
	if o.Image == "latest" {
		image, err = house.Newest(ctx, region, o.Arch, o.Family)
	} else {
		image, err = house.Image(ctx, region, o.Image)
	}
	if err != nil {
		return nil, err
	}
	o.Info("image %s: %s", image.ID, image.Name)
	var last error
	for _, size := range o.Sizes {
		out, err := run(ctx, house, o, image, size)
		switch {
		case err == nil:
			var machines []*fleet.Machine
			for _, i := range out.Instances {
				zone := "an unnamed zone"
				if i.Placement != nil {
					zone = sdk.ToString(i.Placement.AvailabilityZone)
				}
				machines = append(machines, &fleet.Machine{ID: *i.InstanceId, Zone: zone, Started: time.Now(), Address: sdk.ToString(i.PrivateIpAddress)})
				o.Info("instance %s: %s in %s", *i.InstanceId, size, zone)
			}
			return machines, nil
		case aws.IsCode(err, "InsufficientInstanceCapacity", "Unsupported"):
			o.Info("no room for %d %s, trying the next size", o.Count, size)
			last = err
		default:
			return nil, aws.Explain(region, err)
		}
	}
	return nil, aws.Explain(region, last)
}

func run(ctx context.Context, house *aws.House, o LaunchOptions, image aws.Image, size string) (*ec2.RunInstancesOutput, error) {
	tags := []types.Tag{{Key: sdk.String("Name"), Value: &o.Name}, {Key: sdk.String("dorunner-launch"), Value: &o.Token}}
	for k, v := range o.Tags {
		tags = append(tags, types.Tag{Key: &k, Value: &v})
	}
	disk := &types.EbsBlockDevice{VolumeType: types.VolumeTypeGp3, VolumeSize: sdk.Int32(int32(o.DiskGB)), Encrypted: sdk.Bool(true), DeleteOnTermination: sdk.Bool(true)}
	if o.KMSKey != "" {
		disk.KmsKeyId = sdk.String(aws.KeyIn(o.Config.Region, o.KMSKey))
	}
	if o.VolumeRate > 0 {
		disk.VolumeInitializationRate = sdk.Int32(int32(o.VolumeRate))
	}
	in := &ec2.RunInstancesInput{
		ImageId: &image.ID, InstanceType: types.InstanceType(size), MinCount: sdk.Int32(int32(o.Count)), MaxCount: sdk.Int32(int32(o.Count)),
		ClientToken: sdk.String(o.Token + "/" + size), UserData: sdk.String(base64.StdEncoding.EncodeToString(o.UserData)),
		// Job containers are one hop further away: with two they reach the machine's role.
		MetadataOptions: &types.InstanceMetadataOptionsRequest{HttpTokens: types.HttpTokensStateRequired, HttpPutResponseHopLimit: sdk.Int32(2),
			HttpEndpoint: types.InstanceMetadataEndpointStateEnabled, InstanceMetadataTags: types.InstanceMetadataTagsStateEnabled},
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: sdk.String(image.Root()), Ebs: disk}},
		TagSpecifications:   []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: tags}, {ResourceType: types.ResourceTypeVolume, Tags: tags}},
	}
	if aws.Burstable(size) {
		in.CreditSpecification = &types.CreditSpecificationRequest{CpuCredits: sdk.String("unlimited")}
	}
	if o.Subnet != "" {
		in.SubnetId = &o.Subnet
	}
	if o.SecurityGroup != "" {
		in.SecurityGroupIds = []string{o.SecurityGroup}
	}
	switch {
	case strings.HasPrefix(o.InstanceProfile, "arn:"):
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Arn: &o.InstanceProfile}
	case o.InstanceProfile != "":
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: &o.InstanceProfile}
	}
	// The answer names the machines: it is waited for whatever the user does meanwhile.
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return house.EC2(o.Config.Region).RunInstances(call, in)
}

// WaitOnline follows the machines' consoles until every first boot has ended. told is called at each new step.
func WaitOnline(ctx context.Context, cfg sdk.Config, machines []*fleet.Machine, limit time.Duration, told func(*fleet.Machine)) error {
	house := aws.NewHouse(cfg)
	var ids []string
	for _, m := range machines {
		ids = append(ids, m.ID)
	}
	err := aws.Until(ctx, "first boot", limit, func(ctx context.Context) (bool, error) {
		gone, err := ended(ctx, house, cfg.Region, ids)
		if err != nil {
			return false, err
		}
		waiting := false
		for _, m := range machines {
			if m.Settled() {
				continue
			}
			text, err := house.Console(ctx, cfg.Region, m.ID)
			if err == nil && m.Read(text) {
				told(m)
			}
			switch {
			case err != nil && !missing(err):
				return false, err
			case m.Settled():
			case slices.Contains(gone, m.ID):
				return false, fmt.Errorf("machine %s ended before its runner was online", m.ID)
			default:
				waiting = true
			}
		}
		return !waiting, nil
	})
	return errors.Join(err, fleet.Check(machines))
}

// missing says that a new machine is not known everywhere yet.
func missing(err error) bool { return aws.IsCode(err, "InvalidInstanceID.NotFound") }

// ended lists the machines that are no longer there, all asked for in one call.
func ended(ctx context.Context, house *aws.House, region string, ids []string) ([]string, error) {
	out, err := house.EC2(region).DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: ids})
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, aws.Explain(region, err)
	}
	var gone []string
	for _, r := range out.Reservations {
		for _, i := range r.Instances {
			if i.State == nil {
				continue
			}
			if i.State.Name == types.InstanceStateNameTerminated || i.State.Name == types.InstanceStateNameShuttingDown {
				gone = append(gone, *i.InstanceId)
			}
		}
	}
	return gone, nil
}
