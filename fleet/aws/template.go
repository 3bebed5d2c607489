package aws

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
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

// content is what each machine of the group is. It is written so that the same spec always gives the same.
func (c *Group) content(image aws.Image) *types.RequestLaunchTemplateData {
	spec := c.g.Plan.Spec
	disk := &types.LaunchTemplateEbsBlockDeviceRequest{VolumeType: types.VolumeTypeGp3, VolumeSize: sdk.Int32(int32(spec.Image.DiskGB)),
		Encrypted: sdk.Bool(true), DeleteOnTermination: sdk.Bool(true)}
	if spec.AWS.KMSKey != "" {
		disk.KmsKeyId = sdk.String(aws.KeyIn(c.region, spec.AWS.KMSKey))
	}
	if c.g.VolumeRate > 0 {
		disk.VolumeInitializationRate = sdk.Int32(int32(c.g.VolumeRate))
	}
	hops := int32(1) // the machine itself
	if c.g.JobRole {
		hops = 2 // job containers are one hop further away
	}
	d := &types.RequestLaunchTemplateData{
		ImageId: &image.ID, InstanceType: types.InstanceType(c.g.Sizes[0]), // the group's own list wins
		UserData: sdk.String(base64.StdEncoding.EncodeToString(c.g.UserData)),
		MetadataOptions: &types.LaunchTemplateInstanceMetadataOptionsRequest{HttpTokens: types.LaunchTemplateHttpTokensStateRequired, HttpPutResponseHopLimit: &hops,
			HttpEndpoint: types.LaunchTemplateInstanceMetadataEndpointStateEnabled, InstanceMetadataTags: types.LaunchTemplateInstanceMetadataTagsStateEnabled},
		BlockDeviceMappings: []types.LaunchTemplateBlockDeviceMappingRequest{{DeviceName: sdk.String(image.Root()), Ebs: disk}},
		SecurityGroupIds:    []string{c.securityGroup},
	}
	if slices.IndexFunc(c.g.Sizes, func(s string) bool { return !aws.Burstable(s) }) < 0 {
		d.CreditSpecification = &types.CreditSpecificationRequest{CpuCredits: sdk.String("unlimited")}
	}
	switch p := c.profile(); {
	case strings.HasPrefix(p, "arn:"):
		d.IamInstanceProfile = &types.LaunchTemplateIamInstanceProfileSpecificationRequest{Arn: &p}
	case p != "":
		d.IamInstanceProfile = &types.LaunchTemplateIamInstanceProfileSpecificationRequest{Name: &p}
	}
	for _, kind := range []types.ResourceType{types.ResourceTypeInstance, types.ResourceTypeVolume, types.ResourceTypeNetworkInterface} {
		d.TagSpecifications = append(d.TagSpecifications, types.LaunchTemplateTagSpecificationRequest{ResourceType: kind, Tags: aws.TagList(c.tags())})
	}
	return d
}

// mark is the description of the version of a template with this content: versions never change, so that it tells
// whether there is one.
func mark(d *types.RequestLaunchTemplateData) (string, error) {
	text, err := json.Marshal(d)
	if err != nil {
		return "", err
	}
	var said any // without what is not said: a newer SDK has more of that, and is no reason to replace machines
	if err := json.Unmarshal(text, &said); err != nil {
		return "", err
	}
	if text, err = json.Marshal(prune(said)); err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return "dorunner " + hex.EncodeToString(sum[:16]), nil
}

// prune drops what says nothing.
func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, item := range v {
			if item = prune(item); item == nil || item == "" {
				delete(v, k)
			} else {
				v[k] = item
			}
		}
	case []any:
		for i := range v {
			v[i] = prune(v[i])
		}
	}
	return v
}

// image is the one that the machines are to be of.
func (c *Group) image(ctx context.Context) (aws.Image, error) {
	if c.g.Image != "latest" {
		return c.house.Image(ctx, c.region, c.g.Image)
	}
	family, err := aws.Family(c.g.Plan)
	if err != nil {
		return aws.Image{}, err
	}
	return c.house.Newest(ctx, c.region, c.g.Plan.Spec.Image.Arch, family)
}

// planTemplate makes the launch template, or a version of it when no machine like the spec's is among them.
func (c *Group) planTemplate(ctx context.Context) ([]fleet.Change, error) {
	image, err := c.image(ctx)
	if err != nil {
		return nil, err
	}
	c.template, c.version = "", 0
	have, err := c.findTemplate(ctx)
	if err != nil {
		return nil, err
	}
	if have == nil {
		c.version = 1
		return []fleet.Change{{Action: fleet.Create, Kind: "launch template", Name: c.name, Fields: c.templateFields(nil, c.content(image), image), Do: c.createTemplate(image)}}, nil
	}
	c.template = *have.LaunchTemplateId
	want := c.content(image)
	m, err := mark(want)
	if err != nil {
		return nil, err
	}
	versions, err := c.versions(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range versions { // the newest first
		if sdk.ToString(v.VersionDescription) == m {
			c.version = *v.VersionNumber
			return nil, nil
		}
	}
	var last *types.ResponseLaunchTemplateData
	if len(versions) > 0 {
		last, c.version = versions[0].LaunchTemplateData, *versions[0].VersionNumber+1
	}
	return []fleet.Change{{Action: fleet.Update, Kind: "launch template", Name: c.name, Fields: c.templateFields(last, want, image),
		Do: func(ctx context.Context, _ func(string) error) error {
			d := c.content(image) // a security group may have been made meanwhile
			m, err := mark(d)
			if err != nil {
				return err
			}
			return c.patient(ctx, func(ctx context.Context) error {
				out, err := c.ec2.CreateLaunchTemplateVersion(ctx, &ec2.CreateLaunchTemplateVersionInput{LaunchTemplateId: &c.template, LaunchTemplateData: d,
					VersionDescription: &m, ClientToken: sdk.String(short(c.template+m, 64))})
				if err == nil {
					c.version = *out.LaunchTemplateVersion.VersionNumber
				}
				return err
			})
		}}}, nil
}

func (c *Group) createTemplate(image aws.Image) func(context.Context, func(string) error) error {
	return func(ctx context.Context, created func(string) error) error {
		d := c.content(image)
		m, err := mark(d)
		if err != nil {
			return err
		}
		var out *ec2.CreateLaunchTemplateOutput
		err = c.patient(ctx, func(ctx context.Context) (err error) {
			out, err = c.ec2.CreateLaunchTemplate(ctx, &ec2.CreateLaunchTemplateInput{LaunchTemplateName: &c.name, LaunchTemplateData: d, VersionDescription: &m,
				TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeLaunchTemplate, Tags: aws.TagList(c.tags())}}})
			return err
		})
		if aws.IsCode(err, "InvalidLaunchTemplateName.AlreadyExistsException") { // an answer was lost, or it is too new to be seen
			var have *types.LaunchTemplate
			if err := aws.Until(ctx, "finding launch template "+c.name, time.Minute, func(ctx context.Context) (_ bool, err error) {
				have, err = c.findTemplate(ctx)
				return have != nil, err
			}); err != nil {
				return c.explain(err)
			}
			c.template, c.version = *have.LaunchTemplateId, *have.LatestVersionNumber
			return created(c.template)
		}
		if err != nil {
			return err
		}
		c.template, c.version = *out.LaunchTemplate.LaunchTemplateId, 1
		return created(c.template)
	}
}

// findTemplate is the fleet's launch template, nil when there is none.
func (c *Group) findTemplate(ctx context.Context) (*types.LaunchTemplate, error) {
	out, err := c.ec2.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{LaunchTemplateNames: []string{c.name}})
	if aws.IsCode(err, "InvalidLaunchTemplateName.NotFoundException") {
		return nil, nil
	}
	if err != nil || len(out.LaunchTemplates) == 0 {
		return nil, err
	}
	t := &out.LaunchTemplates[0]
	if aws.TagOf(t.Tags, tagFleet) != c.g.Name {
		return nil, c.foreign("a launch template", c.name)
	}
	return t, nil
}

// versions are those of the template, newest first.
func (c *Group) versions(ctx context.Context) ([]types.LaunchTemplateVersion, error) {
	var out []types.LaunchTemplateVersion
	p := ec2.NewDescribeLaunchTemplateVersionsPaginator(c.ec2, &ec2.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: &c.template})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, page.LaunchTemplateVersions...)
	}
	slices.SortFunc(out, func(a, b types.LaunchTemplateVersion) int { return int(*b.VersionNumber - *a.VersionNumber) })
	return out, nil
}

// templateFields shows what differs; user-data by its digest.
func (c *Group) templateFields(have *types.ResponseLaunchTemplateData, want *types.RequestLaunchTemplateData, image aws.Image) []fleet.Field {
	h := shown{}
	if have != nil {
		h = shown{image: sdk.ToString(have.ImageId), groups: have.SecurityGroupIds}
		if raw, err := base64.StdEncoding.DecodeString(sdk.ToString(have.UserData)); err == nil {
			h.userData = fleet.Digest(raw)
		}
		if p := have.IamInstanceProfile; p != nil {
			h.profile = sdk.ToString(p.Name) + sdk.ToString(p.Arn)
		}
		if m := have.MetadataOptions; m != nil {
			h.hops = fmt.Sprint(sdk.ToInt32(m.HttpPutResponseHopLimit))
		}
		for _, b := range have.BlockDeviceMappings {
			if b.Ebs != nil {
				h.disk = diskText(sdk.ToInt32(b.Ebs.VolumeSize), sdk.ToInt32(b.Ebs.VolumeInitializationRate), sdk.ToString(b.Ebs.KmsKeyId))
			}
		}
		for _, t := range have.TagSpecifications {
			if t.ResourceType == types.ResourceTypeInstance {
				h.tags = tagText(t.Tags)
			}
		}
	}
	e := want.BlockDeviceMappings[0].Ebs
	w := shown{image: *want.ImageId, groups: want.SecurityGroupIds, userData: fleet.Digest(c.g.UserData), profile: c.profile(),
		hops: fmt.Sprint(*want.MetadataOptions.HttpPutResponseHopLimit), disk: diskText(*e.VolumeSize, sdk.ToInt32(e.VolumeInitializationRate), sdk.ToString(e.KmsKeyId)),
		tags: tagText(want.TagSpecifications[0].Tags)}
	if c.securityGroup == "" {
		w.groups = []string{"(the fleet's own)"}
	}
	var f fleet.Fields
	f.Diff("image", h.image, w.image)
	f.Diff("user-data", h.userData, w.userData)
	f.Diff("instance profile", h.profile, w.profile)
	f.Diff("security group", h.groups, w.groups)
	f.Diff("disk", h.disk, w.disk)
	f.Diff("metadata hops", h.hops, w.hops)
	f.Diff("tags", h.tags, w.tags)
	if len(f) == 0 {
		f.Set("settings", "as this version of dorunner-bake has them")
	}
	if have == nil {
		f.Set("image name", image.Name)
	}
	return f
}

// shown is what people read of a template.
type shown struct {
	image, userData, profile, disk, hops, tags string
	groups                                     []string
}

func diskText(gb, rate int32, key string) string {
	text := fmt.Sprintf("%d GB gp3, encrypted", gb)
	if rate > 0 {
		text += fmt.Sprintf(", filled at %d MiB/s", rate)
	}
	if key != "" {
		text += " with " + key
	}
	return text
}

func tagText(tags []types.Tag) string {
	var out []string
	for _, t := range tags {
		out = append(out, sdk.ToString(t.Key)+"="+sdk.ToString(t.Value))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
