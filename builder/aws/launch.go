package aws

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/ssh"
	"github.com/dorunner/dorunner-bake/templates"
)

// Launch starts the machine in the first place that has room for it, and connects.
func (c *Cloud) Launch(ctx context.Context, env *builder.Env) (builder.Guest, error) {
	if err := c.begin(env, c.region); err != nil {
		return nil, err
	}
	client, err := ssh.NewKey("dorunner-bake-" + env.BakeID)
	if err != nil {
		return nil, err
	}
	host, err := ssh.NewKey("dorunner-bake-host-" + env.BakeID)
	if err != nil {
		return nil, err
	}
	if c.ownGroup(env) {
		if err := c.makeGroup(ctx, env); err != nil {
			return nil, fmt.Errorf("security group: %w", explain(c.region, err))
		}
	}
	if err := c.start(ctx, env, client, host); err != nil {
		return nil, err
	}
	id := *c.instance.InstanceId
	env.Progress.Info("instance %s: %s in %s", id, c.instance.InstanceType, zoneOf(c.instance))
	if err := c.awaitInstance(ctx, types.InstanceStateNameRunning, runLimit); err != nil {
		return nil, err
	}
	// Whether the image may be made is better known now than after provisioning.
	if !c.noDryRun {
		_, err = c.acct.in(c.region).CreateImage(ctx, c.createImage(env, true))
		if IsCode(err, "UnauthorizedOperation") {
			return nil, explain(c.region, err)
		}
	}
	addr, err := c.address(env)
	if err != nil { // it may be told a moment after the machine runs
		err = until(ctx, "the machine's address", settling, func(ctx context.Context) (bool, error) {
			if err := c.awaitInstance(ctx, types.InstanceStateNameRunning, runLimit); err != nil {
				return false, err
			}
			addr, err = c.address(env)
			return err == nil, nil
		})
	}
	if err != nil && ctx.Err() == nil {
		err = errNoAddress
	}
	if err != nil {
		return nil, err
	}
	c.guest, err = c.o.Dial(ctx, ssh.Config{Addr: addr, User: env.Plan.Base.AdminUser, Signer: client.Signer, HostKey: host.Signer.PublicKey(), Timeout: time.Duration(env.Plan.Spec.AWS.SSHTimeout)})
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("%w; check that the network lets us reach port %d (%s), and the console output of %s", err, env.Plan.Spec.AWS.SSHPort, c.whoMayConnect(env), id)
	}
	return c.guest, err
}

func (c *Cloud) whoMayConnect(env *builder.Env) string {
	if c.ownGroup(env) {
		return "its security group admits " + c.opening.String() + "; --allow-cidr changes that"
	}
	return "name a security group that does with --security-group"
}

// makeGroup makes a security group that admits SSH from one address.
func (c *Cloud) makeGroup(ctx context.Context, env *builder.Env) error {
	name := "dorunner-bake-" + env.BakeID
	call, cancel := creating(ctx)
	defer cancel()
	client := c.acct.in(c.region)
	out, err := client.CreateSecurityGroup(call, &ec2.CreateSecurityGroupInput{
		GroupName: &name, VpcId: &c.vpc, Description: sdk.String("SSH to the temporary machine of an image bake"),
		TagSpecifications: tagSpecs(c.tags(env), types.ResourceTypeSecurityGroup)})
	if IsCode(err, "InvalidGroup.Duplicate") { // an answer was lost and the call repeated
		c.group, err = c.acct.groupMade(call, c.region, name)
	} else if err == nil {
		c.group = *out.GroupId
	}
	c.acct.created(c.region, err)
	if err != nil {
		return err
	}
	if err := c.record(env, kindGroup, c.region, c.group); err != nil {
		return err
	}
	perm := types.IpPermission{IpProtocol: sdk.String("tcp"), FromPort: sdk.Int32(22), ToPort: sdk.Int32(22),
		IpRanges: []types.IpRange{{CidrIp: sdk.String(c.opening.String()), Description: sdk.String("who bakes")}}}
	return c.settled(ctx, func(ctx context.Context) error {
		_, err := client.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &c.group, IpPermissions: []types.IpPermission{perm}})
		if IsCode(err, "InvalidPermission.Duplicate") {
			return nil
		}
		return err
	})
}

// settled repeats a call on something just created until the service knows it everywhere.
func (c *Cloud) settled(ctx context.Context, call func(context.Context) error) error {
	return until(ctx, "becoming known", time.Minute, func(ctx context.Context) (bool, error) {
		err := call(ctx)
		if notFound(err) {
			return false, nil
		}
		return err == nil, err
	})
}

// start tries every place in order, spot before on-demand when that is wanted, until one has room.
func (c *Cloud) start(ctx context.Context, env *builder.Env, client, host ssh.Key) error {
	data, err := templates.Render("aws/builder.yaml", map[string]any{"HostKey": host.PrivatePEM, "HostKeyPublic": host.Authorized, "ClientKey": client.Authorized, "Minutes": int(selfDestruct.Minutes())})
	if err != nil {
		return err
	}
	markets := []bool{false}
	if env.Plan.Spec.AWS.Spot {
		markets = []bool{true, false}
	}
	var full []string
	var last error
	for _, spot := range markets {
		for _, p := range c.places {
			out, err := c.run(ctx, env, p, spot, false, data...)
			if err == nil {
				c.instance, c.spot = out.Instances[0], spot
				return c.record(env, kindInstance, c.region, *c.instance.InstanceId)
			}
			if !IsCode(err, "InsufficientInstanceCapacity", "SpotMaxPriceTooLow", "MaxSpotInstanceCountExceeded", "Unsupported") {
				return explain(c.region, err)
			}
			last = err
			full = append(full, fmt.Sprintf("%s in %s", p.size, p.zone))
			env.Progress.Info("no room for %s in %s, trying the next", p.size, p.zone)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
	}
	return fmt.Errorf("there is no capacity anywhere: %s were tried; name more sizes, in order (--size t3a.xlarge,m6a.xlarge), or another --region: %w", strings.Join(full, ", "), last)
}

// run starts the machine that is baked. A dry run has no security group of ours yet.
func (c *Cloud) run(ctx context.Context, env *builder.Env, p place, spot, dry bool, userData ...byte) (*ec2.RunInstancesOutput, error) {
	return c.runTagged(ctx, env, p, spot, dry, "bake", userData...)
}

// runTagged is RunInstances with everything that a machine needs; purpose tells the requests of one bake apart.
func (c *Cloud) runTagged(ctx context.Context, env *builder.Env, p place, spot, dry bool, purpose string, userData ...byte) (*ec2.RunInstancesOutput, error) {
	a := env.Plan.Spec.AWS
	kinds := []types.ResourceType{types.ResourceTypeInstance, types.ResourceTypeVolume, types.ResourceTypeNetworkInterface}
	in := &ec2.RunInstancesInput{
		ImageId: c.base.ImageId, InstanceType: types.InstanceType(p.size), MinCount: sdk.Int32(1), MaxCount: sdk.Int32(1), DryRun: sdk.Bool(dry),
		InstanceInitiatedShutdownBehavior: types.ShutdownBehaviorTerminate,
		MetadataOptions: &types.InstanceMetadataOptionsRequest{HttpTokens: types.HttpTokensStateRequired, HttpPutResponseHopLimit: sdk.Int32(1),
			HttpEndpoint: types.InstanceMetadataEndpointStateEnabled, InstanceMetadataTags: types.InstanceMetadataTagsStateEnabled},
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: &c.root, Ebs: &types.EbsBlockDevice{VolumeType: types.VolumeTypeGp3,
			VolumeSize: sdk.Int32(int32(env.Plan.Spec.Image.DiskGB)), Encrypted: sdk.Bool(true), KmsKeyId: orNil(KeyIn(c.region, a.KMSKey)), DeleteOnTermination: sdk.Bool(true)}}},
		NetworkInterfaces: []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: sdk.Int32(0), SubnetId: &p.subnet,
			AssociatePublicIpAddress: sdk.Bool(!a.PrivateIP), DeleteOnTermination: sdk.Bool(true)}},
		TagSpecifications: tagSpecs(c.tags(env), kinds...),
		UserData:          sdk.String(base64.StdEncoding.EncodeToString(userData)),
	}
	if Burstable(p.size) {
		in.CreditSpecification = &types.CreditSpecificationRequest{CpuCredits: sdk.String("unlimited")}
	}
	for _, g := range []string{a.SecurityGroup, c.group} {
		if g != "" {
			in.NetworkInterfaces[0].Groups = append(in.NetworkInterfaces[0].Groups, g)
		}
	}
	if a.InstanceProfile != "" {
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: &a.InstanceProfile}
		if strings.HasPrefix(a.InstanceProfile, "arn:") {
			in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Arn: &a.InstanceProfile}
		}
	}
	if spot {
		in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot}
	}
	if dry {
		call, cancel := creating(ctx)
		defer cancel()
		return c.acct.in(c.region).RunInstances(call, in)
	}
	in.ClientToken = sdk.String(strings.Join([]string{env.BakeID, purpose, p.size, p.zone, map[bool]string{true: "s", false: "o"}[spot]}, "/"))
	call, cancel := creating(ctx)
	defer cancel()
	var out *ec2.RunInstancesOutput
	// The security group is seconds old: not every part of the service may know it.
	err := until(call, "starting the machine", time.Minute, func(ctx context.Context) (done bool, err error) {
		out, err = c.acct.in(c.region).RunInstances(ctx, in)
		if IsCode(err, "InvalidGroup.NotFound") {
			return false, nil
		}
		return err == nil, err
	})
	c.acct.created(c.region, err)
	return out, err
}

var burstable = regexp.MustCompile(`^t[0-9]`)

// Burstable says that a machine type has CPU credits; they are unlimited here, or a bake would crawl once they are spent.
func Burstable(size string) bool { return burstable.MatchString(size) }

// KeyIn is the key that a region has, of one that may have several with commas between: an ARN of that region, a multi-region
// key, an alias; "" when it has none of them.
func KeyIn(region, keys string) string {
	other := ""
	for k := range strings.SplitSeq(keys, ",") {
		k = strings.TrimSpace(k)
		parts := strings.Split(k, ":")
		switch {
		case len(parts) == 6 && parts[3] == region:
			return k
		case len(parts) == 6 && strings.HasPrefix(parts[5], "key/mrk-"): // its replica has the region in its ARN
			parts[3] = region
			other = strings.Join(parts, ":")
		case len(parts) != 6 && other == "":
			other = k
		}
	}
	return other
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// awaitInstance waits until the machine is in a state, and keeps what it was told last.
func (c *Cloud) awaitInstance(ctx context.Context, want types.InstanceStateName, limit time.Duration) error {
	id := *c.instance.InstanceId
	what := fmt.Sprintf("instance %s becoming %s", id, want)
	return until(ctx, what, limit, func(ctx context.Context) (bool, error) {
		out, err := c.acct.in(c.region).DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
		if notFound(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("%s: %w", what, explain(c.region, err))
		}
		if len(out.Reservations) == 0 || len(out.Reservations[0].Instances) == 0 {
			return false, nil
		}
		i := out.Reservations[0].Instances[0]
		c.instance = i
		switch stateOf(i) {
		case want:
			return true, nil
		case types.InstanceStateNameTerminated, types.InstanceStateNameShuttingDown:
			reason := sdk.ToString(i.StateTransitionReason)
			if i.StateReason != nil {
				reason = sdk.ToString(i.StateReason.Message)
			}
			return false, fmt.Errorf("instance %s ended by itself: %s", id, reason)
		}
		return false, nil
	})
}

var errNoAddress = errors.New("the machine got no public address: choose a subnet that gives one, or use --private-ip")

// address is where the machine answers SSH.
func (c *Cloud) address(env *builder.Env) (string, error) {
	a := env.Plan.Spec.AWS
	host := a.SSHHost
	switch {
	case host != "":
	case a.PrivateIP:
		host = sdk.ToString(c.instance.PrivateIpAddress)
	default:
		host = sdk.ToString(c.instance.PublicIpAddress)
	}
	if host == "" {
		return "", errNoAddress
	}
	return net.JoinHostPort(host, strconv.Itoa(a.SSHPort)), nil
}

func zoneOf(i types.Instance) string {
	if i.Placement == nil {
		return "an unnamed zone"
	}
	return sdk.ToString(i.Placement.AvailabilityZone)
}

func stateOf(i types.Instance) types.InstanceStateName {
	if i.State == nil {
		return ""
	}
	return i.State.Name
}
