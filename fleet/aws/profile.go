package aws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/dorunner/dorunner-bake/builder/aws"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/fleet"
	"github.com/dorunner/dorunner-bake/images"
)

// roleName is that of the fleet's own role and instance profile: IAM knows no regions.
func (c *Group) roleName() string { return short(c.name+"-"+c.region, 64) }

// policyName is that of the role's one policy.
const policyName = "dorunner-runner"

// profile is the instance profile of the machines, a name or an ARN.
func (c *Group) profile() string {
	if c.g.InstanceProfile == images.CreateProfile {
		return c.roleName()
	}
	return c.g.InstanceProfile
}

// statement is one of a policy.
type statement struct {
	Sid       string                       `json:",omitempty"`
	Effect    string                       // Allow
	Principal map[string]string            `json:",omitempty"`
	Action    []string                     // of a service
	Resource  []string                     `json:",omitempty"`
	Condition map[string]map[string]string `json:",omitempty"`
}

func policyText(statements ...statement) string {
	text, err := json.Marshal(struct {
		Version   string
		Statement []statement
	}{"2012-10-17", statements})
	if err != nil { // texts alone
		panic(err)
	}
	return string(text)
}

// trust lets EC2 hand the role to machines.
func trust() string {
	return policyText(statement{Effect: "Allow", Principal: map[string]string{"Service": "ec2.amazonaws.com"}, Action: []string{"sts:AssumeRole"}})
}

// identify asks who the caller is, once.
func (c *Group) identify(ctx context.Context) error {
	if c.account != "" {
		return nil
	}
	out, err := sts.NewFromConfig(c.cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return err
	}
	c.account, c.partition = sdk.ToString(out.Account), "aws"
	if parts := strings.Split(sdk.ToString(out.Arn), ":"); len(parts) > 1 {
		c.partition = parts[1]
	}
	return nil
}

// permissions is all that a machine may do: read what its spec refers to, and talk to its own group.
func (c *Group) permissions() string {
	arn := func(service, resource string) string {
		return strings.Join([]string{"arn", c.partition, service, c.region, c.account, resource}, ":")
	}
	read := map[string][]string{}
	secrets := c.g.Runner.Secrets()
	for _, path := range slices.Sorted(maps.Keys(secrets)) {
		ref := secrets[path].Ref()
		switch secrets[path].Scheme() {
		case "ssm":
			if !strings.HasPrefix(ref, "arn:") {
				ref = arn("ssm", "parameter/"+strings.TrimPrefix(ref, "/"))
			}
			read["ssm:GetParameter"] = append(read["ssm:GetParameter"], ref)
		case "secretsmanager":
			ref, _, _ = strings.Cut(ref, "#")
			if !strings.HasPrefix(ref, "arn:") {
				ref = arn("secretsmanager", "secret:"+ref+"-??????") // the service adds six characters of its own
			}
			read["secretsmanager:GetSecretValue"] = append(read["secretsmanager:GetSecretValue"], ref)
		}
	}
	var all []statement
	for _, action := range slices.Sorted(maps.Keys(read)) {
		slices.Sort(read[action])
		all = append(all, statement{Sid: "Read" + strings.ToUpper(action[:1]) + strings.SplitN(action[1:], ":", 2)[0], Effect: "Allow", Action: []string{action}, Resource: slices.Compact(read[action])})
	}
	group := arn("autoscaling", "autoScalingGroup:*:autoScalingGroupName/"+c.name)
	all = append(all, statement{Sid: "TalkToItsGroup", Effect: "Allow", Resource: []string{group}, Action: []string{
		"autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat", "autoscaling:SetInstanceHealth", "autoscaling:SetInstanceProtection"}})
	if c.g.Fleet.Autoscale == 0 {
		return policyText(all...)
	}
	return policyText(append(all,
		statement{Sid: "TellHowBusyItIs", Effect: "Allow", Resource: []string{"*"}, Action: []string{"cloudwatch:PutMetricData"},
			Condition: map[string]map[string]string{"StringEquals": {"cloudwatch:namespace": runner.LoadNamespace}}})...)
}

// iamState is the fleet's own role, as far as it exists.
type iamState struct {
	role, profile, attached bool
	policy                  string
}

func noSuch(err error) bool { return aws.IsCode(err, "NoSuchEntity", "NoSuchEntityException") }

// findProfile looks for the fleet's own role and instance profile.
func (c *Group) findProfile(ctx context.Context) (s iamState, err error) {
	name := c.roleName()
	role, err := c.iam.GetRole(ctx, &iam.GetRoleInput{RoleName: &name})
	switch {
	case noSuch(err):
	case err != nil:
		return s, err
	case !c.ours(role.Role.Tags):
		return s, c.foreign("a role", name)
	default:
		s.role = true
		out, err := c.iam.GetRolePolicy(ctx, &iam.GetRolePolicyInput{RoleName: &name, PolicyName: sdk.String(policyName)})
		if err != nil && !noSuch(err) {
			return s, err
		}
		if err == nil {
			if s.policy, err = url.QueryUnescape(sdk.ToString(out.PolicyDocument)); err != nil {
				return s, err
			}
		}
	}
	p, err := c.iam.GetInstanceProfile(ctx, &iam.GetInstanceProfileInput{InstanceProfileName: &name})
	switch {
	case noSuch(err):
		return s, nil
	case err != nil:
		return s, err
	case !c.ours(p.InstanceProfile.Tags):
		return s, c.foreign("an instance profile", name)
	}
	s.profile, s.attached = true, slices.ContainsFunc(p.InstanceProfile.Roles, func(r types.Role) bool { return sdk.ToString(r.RoleName) == name })
	return s, nil
}

func (c *Group) ours(tags []types.Tag) bool {
	return slices.ContainsFunc(tags, func(t types.Tag) bool { return sdk.ToString(t.Key) == tagFleet && sdk.ToString(t.Value) == c.g.Name })
}

func (c *Group) iamTags() []types.Tag {
	var out []types.Tag
	tags := c.tags()
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		out = append(out, types.Tag{Key: sdk.String(k), Value: sdk.String(tags[k])})
	}
	return out
}

// planProfile makes a role of the fleet's own, when the spec wants one.
func (c *Group) planProfile(ctx context.Context) ([]fleet.Change, error) {
	if c.g.InstanceProfile != images.CreateProfile {
		return nil, nil
	}
	if err := c.identify(ctx); err != nil {
		return nil, err
	}
	have, err := c.findProfile(ctx)
	if err != nil {
		return nil, err
	}
	name, want := c.roleName(), c.permissions()
	var changes []fleet.Change
	add := func(action fleet.Action, kind, what string, fields []fleet.Field, do func(ctx context.Context) error) {
		changes = append(changes, fleet.Change{Action: action, Kind: kind, Name: what, Fields: fields, Do: func(ctx context.Context, created func(string) error) error {
			if err := do(ctx); err != nil && !aws.IsCode(err, "EntityAlreadyExists", "EntityAlreadyExistsException") {
				return c.explain(err)
			}
			return created(what)
		}})
	}
	if !have.role {
		add(fleet.Create, "role", name, nil, func(ctx context.Context) error {
			_, err := c.iam.CreateRole(ctx, &iam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: sdk.String(trust()), Tags: c.iamTags(),
				Description: sdk.String("what the machines of fleet " + c.g.Name + " may do")})
			return err
		})
	}
	if !sameJSON(have.policy, want) {
		action := fleet.Update
		if have.policy == "" {
			action = fleet.Create
		}
		add(action, "role policy", name+"/"+policyName, policyFields(have.policy, want), func(ctx context.Context) error {
			return c.patientIAM(ctx, func(ctx context.Context) error {
				_, err := c.iam.PutRolePolicy(ctx, &iam.PutRolePolicyInput{RoleName: &name, PolicyName: sdk.String(policyName), PolicyDocument: &want})
				return err
			})
		})
	}
	attach := func(ctx context.Context) error {
		return c.patientIAM(ctx, func(ctx context.Context) error {
			_, err := c.iam.AddRoleToInstanceProfile(ctx, &iam.AddRoleToInstanceProfileInput{InstanceProfileName: &name, RoleName: &name})
			if aws.IsCode(err, "LimitExceeded", "LimitExceededException") { // it has one already, by an answer that was lost
				return nil
			}
			return err
		})
	}
	switch {
	case !have.profile:
		add(fleet.Create, "instance profile", name, nil, func(ctx context.Context) error {
			_, err := c.iam.CreateInstanceProfile(ctx, &iam.CreateInstanceProfileInput{InstanceProfileName: &name, Tags: c.iamTags()})
			if err != nil && !aws.IsCode(err, "EntityAlreadyExists", "EntityAlreadyExistsException") {
				return err
			}
			return attach(ctx)
		})
	case !have.attached:
		add(fleet.Update, "instance profile", name, []fleet.Field{{Name: "role", New: name}}, attach)
	}
	return changes, nil
}

// patientIAM repeats a call about something so new that not all of IAM knows it.
func (c *Group) patientIAM(ctx context.Context, call func(context.Context) error) error {
	return c.patientWith(ctx, call, noSuch)
}

func sameJSON(a, b string) bool {
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return false
	}
	return reflect.DeepEqual(x, y)
}

// policyFields shows what a policy allows, statement by statement.
func policyFields(have, want string) []fleet.Field {
	var f fleet.Fields
	h, w := allowed(have), allowed(want)
	keys := slices.Collect(maps.Keys(w))
	for k := range h {
		if _, in := w[k]; !in {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		f.Diff(k, h[k], w[k])
	}
	return f
}

// allowed is, for each action of a policy of ours, what it may be done on.
func allowed(policy string) map[string]string {
	var p struct{ Statement []statement }
	if json.Unmarshal([]byte(policy), &p) != nil {
		return nil
	}
	out := map[string]string{}
	for _, s := range p.Statement {
		on := strings.Join(s.Resource, ", ")
		for _, c := range s.Condition {
			for k, v := range c {
				on += fmt.Sprintf(" if %s is %s", k, v)
			}
		}
		for _, a := range s.Action {
			out[a] = on
		}
	}
	return out
}

// removeProfile gives the fleet's own role back, whatever there is of it.
func (c *Group) removeProfile(ctx context.Context) error {
	name := c.roleName()
	have, err := c.findProfile(ctx)
	if err != nil {
		return err
	}
	var errs []error
	try := func(err error) {
		if err != nil && !noSuch(err) {
			errs = append(errs, c.explain(err))
		}
	}
	if have.attached {
		_, err := c.iam.RemoveRoleFromInstanceProfile(ctx, &iam.RemoveRoleFromInstanceProfileInput{InstanceProfileName: &name, RoleName: &name})
		try(err)
	}
	if have.profile {
		_, err := c.iam.DeleteInstanceProfile(ctx, &iam.DeleteInstanceProfileInput{InstanceProfileName: &name})
		try(err)
	}
	if have.role {
		_, err := c.iam.DeleteRolePolicy(ctx, &iam.DeleteRolePolicyInput{RoleName: &name, PolicyName: sdk.String(policyName)})
		try(err)
		_, err = c.iam.DeleteRole(ctx, &iam.DeleteRoleInput{RoleName: &name})
		try(err)
	}
	return errors.Join(errs...)
}
