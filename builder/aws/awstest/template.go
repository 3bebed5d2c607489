package awstest

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// template is a launch template; versions never change, and their numbers are never used again.
type template struct {
	meta
	name      string
	versions  map[int]*templateVersion
	byDefault int
	latest    int
	token     string
}

type templateVersion struct {
	number  int
	desc    string
	created time.Time
	data    templateData
	params  url.Values // as RunInstances takes them
}

// templateData is what a launch template can hold here. Field names are the parameters', XML names the answer's.
type templateData struct {
	ImageId                           string            `xml:"imageId,omitempty"`
	InstanceType                      string            `xml:"instanceType,omitempty"`
	UserData                          string            `xml:"userData,omitempty"`
	EbsOptimized                      *bool             `xml:"ebsOptimized,omitempty"`
	InstanceInitiatedShutdownBehavior string            `xml:"instanceInitiatedShutdownBehavior,omitempty"`
	IamInstanceProfile                *templateProfile  `xml:"iamInstanceProfile,omitempty"`
	CreditSpecification               *templateCredits  `xml:"creditSpecification,omitempty"`
	MetadataOptions                   *templateMetadata `xml:"metadataOptions,omitempty"`
	SecurityGroupId                   set[string]       `xml:"securityGroupIdSet"`
	BlockDeviceMapping                set[templateDisk] `xml:"blockDeviceMappingSet"`
	TagSpecification                  set[templateTags] `xml:"tagSpecificationSet"`
}

type templateProfile struct {
	Arn  string `xml:"arn,omitempty"`
	Name string `xml:"name,omitempty"`
}

type templateCredits struct {
	CpuCredits string `xml:"cpuCredits"`
}

type templateMetadata struct {
	HttpEndpoint            string `xml:"httpEndpoint,omitempty"`
	HttpPutResponseHopLimit *int   `xml:"httpPutResponseHopLimit,omitempty"`
	HttpTokens              string `xml:"httpTokens,omitempty"`
	InstanceMetadataTags    string `xml:"instanceMetadataTags,omitempty"`
}

type templateDisk struct {
	DeviceName string `xml:"deviceName"`
	Ebs        *struct {
		DeleteOnTermination      *bool  `xml:"deleteOnTermination,omitempty"`
		Encrypted                *bool  `xml:"encrypted,omitempty"`
		Iops                     *int   `xml:"iops,omitempty"`
		KmsKeyId                 string `xml:"kmsKeyId,omitempty"`
		SnapshotId               string `xml:"snapshotId,omitempty"`
		Throughput               *int   `xml:"throughput,omitempty"`
		VolumeInitializationRate *int   `xml:"volumeInitializationRate,omitempty"`
		VolumeSize               *int   `xml:"volumeSize,omitempty"`
		VolumeType               string `xml:"volumeType,omitempty"`
	} `xml:"ebs,omitempty"`
}

type templateTags struct {
	ResourceType string       `xml:"resourceType"`
	Tag          set[tagPair] `xml:"tagSet"`
}

type tagPair struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

// newVersion reads LaunchTemplateData. As with EC2, only what needs no look at other things is checked: an image or
// security group that does not exist shows when a machine is launched.
func (c *call) newVersion() *templateVersion {
	const prefix = "LaunchTemplateData."
	v := &templateVersion{desc: c.f.str("VersionDescription"), created: time.Now(), params: url.Values{}}
	c.f.read(prefix, &v.data)
	for k, val := range c.Params {
		if rest, ok := strings.CutPrefix(k, prefix); ok {
			v.params[rest] = val
		}
	}
	if len(v.params) == 0 && c.f.err == nil {
		c.f.err = fail("MissingParameter", "The request must contain the parameter LaunchTemplateData")
	}
	if m := v.data.MetadataOptions; m != nil {
		c.f.within("HttpPutResponseHopLimit", m.HttpPutResponseHopLimit, 1, 64)
	}
	for _, t := range v.data.TagSpecification.Item {
		c.f.only("ResourceType", t.ResourceType, "instance", "volume", "network-interface", "spot-instances-request")
		if t.ResourceType == "spot-instances-request" && v.params.Get("InstanceMarketOptions.MarketType") != "spot" && c.f.err == nil {
			c.f.err = fail("InvalidParameterValue", "The tag specification resource type 'spot-instances-request' requires a Spot request")
		}
	}
	if n := len(v.data.UserData); n > 16384*4/3+4 && c.f.err == nil {
		c.f.err = fail("InvalidUserData.Malformed", "User data is limited to 16384 bytes")
	}
	return v
}

type templateItem struct {
	ID      string       `xml:"launchTemplateId"`
	Name    string       `xml:"launchTemplateName"`
	Created string       `xml:"createTime"`
	By      string       `xml:"createdBy"`
	Default int          `xml:"defaultVersionNumber"`
	Latest  int          `xml:"latestVersionNumber"`
	Tags    set[tagItem] `xml:"tagSet"`
}

func (c *call) templateItem(t *template) templateItem {
	return templateItem{t.id, t.name, stamp(t.created), c.s.caller(), t.byDefault, t.latest, tagSet(t.tags)}
}

type versionItem struct {
	ID      string       `xml:"launchTemplateId"`
	Name    string       `xml:"launchTemplateName"`
	Number  int          `xml:"versionNumber"`
	Desc    string       `xml:"versionDescription,omitempty"`
	Created string       `xml:"createTime"`
	By      string       `xml:"createdBy"`
	Default bool         `xml:"defaultVersion"`
	Data    templateData `xml:"launchTemplateData"`
}

func (c *call) versionItem(t *template, v *templateVersion) versionItem {
	return versionItem{t.id, t.name, v.number, v.desc, stamp(v.created), c.s.caller(), v.number == t.byDefault, v.data}
}

// template finds one by id or by name, and the resource that it is for the policy.
func (c *call) template() (*template, resource, *Error) {
	id, name := c.f.str("LaunchTemplateId"), c.f.str("LaunchTemplateName")
	on := resource{arn: c.arn("launch-template", "*")}
	t, err := c.r.template(id, name)
	if err == nil {
		on = c.res("launch-template", &t.meta)
	}
	return t, on, err
}

func (r *region) template(id, name string) (*template, *Error) {
	switch {
	case id != "" && name != "":
		return nil, fail("InvalidParameterCombination", "You may specify either a launch template ID or a launch template name, not both.")
	case id != "":
		t, ok := r.templates[id]
		if !ok || time.Now().Before(t.visible) {
			return nil, fail("InvalidLaunchTemplateId.NotFound", "The specified launch template, with template ID %s, does not exist.", id)
		}
		return t, nil
	}
	for _, t := range r.templates {
		if t.name == name && !time.Now().Before(t.visible) {
			return t, nil
		}
	}
	return nil, fail("InvalidLaunchTemplateName.NotFoundException", "The specified launch template, with template name %s, does not exist.", name)
}

// version finds one by number, $Latest or $Default.
func (t *template) version(text string) (*templateVersion, *Error) {
	n := 0
	switch text {
	case "$Latest":
		n = t.latest
	case "$Default", "":
		n = t.byDefault
	default:
		n, _ = strconv.Atoi(text)
	}
	if v := t.versions[n]; v != nil {
		return v, nil
	}
	return nil, fail("InvalidLaunchTemplateId.VersionNotFound", "Could not find the specified version %s for the launch template with ID %s.", text, t.id)
}

func createTemplate(c *call) (any, *Error) {
	name, token := c.f.need("LaunchTemplateName"), c.f.str("ClientToken")
	tags := c.f.tags("launch-template")["launch-template"]
	v := c.newVersion()
	if err := c.begin(c.fresh("launch-template", tags)); err != nil {
		return nil, err
	}
	for _, t := range c.r.templates {
		switch {
		case t.name == name && token != "" && t.token == token:
			return struct {
				T templateItem `xml:"launchTemplate"`
			}{c.templateItem(t)}, nil
		case t.name == name:
			return nil, fail("InvalidLaunchTemplateName.AlreadyExistsException", "Launch template name already in use.")
		}
	}
	t := &template{meta: c.s.newMeta("lt", tags), name: name, versions: map[int]*templateVersion{1: v}, byDefault: 1, latest: 1, token: token}
	v.number = 1
	c.r.templates[t.id] = t
	return struct {
		T templateItem `xml:"launchTemplate"`
	}{c.templateItem(t)}, nil
}

func createTemplateVersion(c *call) (any, *Error) {
	t, on, terr := c.template()
	token := c.f.str("ClientToken")
	v := c.newVersion()
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if terr != nil {
		return nil, terr
	}
	key := "template/" + t.id + "/" + token
	if n, err := strconv.Atoi(c.r.tokens[key]); token != "" && err == nil && t.versions[n] != nil {
		v = t.versions[n]
	} else {
		t.latest++
		v.number = t.latest
		t.versions[v.number] = v
		c.r.tokens[key] = strconv.Itoa(v.number)
	}
	return struct {
		V versionItem `xml:"launchTemplateVersion"`
	}{c.versionItem(t, v)}, nil
}

func modifyTemplate(c *call) (any, *Error) {
	t, on, terr := c.template()
	version := c.f.str("SetDefaultVersion")
	c.f.str("ClientToken")
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if terr != nil {
		return nil, terr
	}
	v, err := t.version(version)
	if err != nil {
		return nil, err
	}
	t.byDefault = v.number
	return struct {
		T templateItem `xml:"launchTemplate"`
	}{c.templateItem(t)}, nil
}

func describeTemplates(c *call) (any, *Error) {
	ids, names := c.f.list("LaunchTemplateId"), c.f.list("LaunchTemplateName")
	filters := c.f.filters("launch-template-name", "tag-key")
	var missing *Error
	for _, id := range ids {
		if _, err := c.r.template(id, ""); err != nil && missing == nil {
			missing = err
		}
	}
	for _, name := range names {
		if _, err := c.r.template("", name); err != nil && missing == nil {
			missing = err
		}
	}
	var all []templateItem
	for _, t := range list(c.r.templates) {
		if match(filters, t.tags, map[string]string{"launch-template-name": t.name}) && (len(ids)+len(names) == 0 || slices.Contains(ids, t.id) || slices.Contains(names, t.name)) {
			all = append(all, c.templateItem(t))
		}
	}
	part, next, perr := page(c, all)
	if err := c.begin(anything); err != nil {
		return nil, err
	}
	if missing != nil {
		return nil, missing
	}
	return struct {
		Set  set[templateItem] `xml:"launchTemplates"`
		Next string            `xml:"nextToken,omitempty"`
	}{set[templateItem]{part}, next}, perr
}

func describeTemplateVersions(c *call) (any, *Error) {
	t, _, terr := c.template()
	want := c.f.list("LaunchTemplateVersion")
	least, most := c.f.num("MinVersion"), c.f.num("MaxVersion")
	var all []versionItem
	var missing *Error
	if t != nil {
		numbers := map[int]bool{}
		for _, w := range want {
			v, err := t.version(w)
			if err != nil {
				missing = err
				continue
			}
			numbers[v.number] = true
		}
		for _, n := range slices.Sorted(maps.Keys(t.versions)) {
			if (len(want) == 0 || numbers[n]) && n >= least && (most == 0 || n <= most) {
				all = append(all, c.versionItem(t, t.versions[n]))
			}
		}
		slices.Reverse(all) // the newest first
	}
	part, next, perr := page(c, all)
	if err := c.begin(anything); err != nil {
		return nil, err
	}
	if terr != nil {
		return nil, terr
	}
	if missing != nil {
		return nil, missing
	}
	return struct {
		Set  set[versionItem] `xml:"launchTemplateVersionSet"`
		Next string           `xml:"nextToken,omitempty"`
	}{set[versionItem]{part}, next}, perr
}

func deleteTemplate(c *call) (any, *Error) {
	t, on, terr := c.template()
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if terr != nil {
		return nil, terr
	}
	delete(c.r.templates, t.id)
	return struct {
		T templateItem `xml:"launchTemplate"`
	}{c.templateItem(t)}, nil
}

func deleteTemplateVersions(c *call) (any, *Error) {
	t, on, terr := c.template()
	want := c.f.list("LaunchTemplateVersion")
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if terr != nil {
		return nil, terr
	}
	type item struct {
		ID     string `xml:"launchTemplateId"`
		Name   string `xml:"launchTemplateName"`
		Number int    `xml:"versionNumber"`
		Error  *struct {
			Code    string `xml:"code"`
			Message string `xml:"message"`
		} `xml:"responseError,omitempty"`
	}
	var out struct {
		Good set[item] `xml:"successfullyDeletedLaunchTemplateVersionSet"`
		Bad  set[item] `xml:"unsuccessfullyDeletedLaunchTemplateVersionSet"`
	}
	for _, w := range want {
		n, _ := strconv.Atoi(w)
		it := item{ID: t.id, Name: t.name, Number: n}
		if t.versions[n] == nil || n == t.byDefault {
			it.Error = &struct {
				Code    string `xml:"code"`
				Message string `xml:"message"`
			}{"launchTemplateVersionDoesNotExist", fmt.Sprintf("version %s cannot be deleted", w)}
			out.Bad.Item = append(out.Bad.Item, it)
			continue
		}
		delete(t.versions, n)
		out.Good.Item = append(out.Good.Item, it)
	}
	return out, nil
}
