package awstest

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Policy is an IAM policy document, as far as policies for this program need it: Action and Resource with
// wildcards, and the conditions StringEquals, StringLike, Null and Bool (with ForAllValues: and IfExists).
type Policy struct {
	Statements []statement
}

type statement struct {
	Effect    string
	Action    oneOrMany
	Resource  oneOrMany
	Condition map[string]map[string]oneOrMany
}

type oneOrMany []string

func (o *oneOrMany) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*o = oneOrMany{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(o))
}

var policyForm = regexp.MustCompile("(?s)<!-- policy: ([a-z-]+) -->\n```json\n(.*?)\n```")

// Documented reads the policies of a page of documentation, all of them strictly, and joins the named ones. Each stands
// behind a comment with its name.
func Documented(page string, names ...string) (*Policy, error) {
	doc, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	out := &Policy{}
	found := 0
	for _, m := range policyForm.FindAllStringSubmatch(string(doc), -1) {
		p, err := ParsePolicy([]byte(m[2]))
		if err != nil {
			return nil, fmt.Errorf("policy %s of %s: %w", m[1], page, err)
		}
		if slices.Contains(names, m[1]) {
			found++
			out.Statements = append(out.Statements, p.Statements...)
		}
	}
	if found != len(names) {
		return nil, fmt.Errorf("%d of the policies %v are in %s", found, names, page)
	}
	return out, nil
}

// ParsePolicy reads a policy document strictly.
func ParsePolicy(doc []byte) (*Policy, error) {
	var p struct {
		Version   string
		Statement []struct {
			Sid string
			statement
		}
	}
	d := json.NewDecoder(strings.NewReader(string(doc)))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return nil, err
	}
	if p.Version != "2012-10-17" {
		return nil, fmt.Errorf("policy version %q", p.Version)
	}
	out := &Policy{}
	for _, s := range p.Statement {
		if (s.Effect != "Allow" && s.Effect != "Deny") || len(s.Action) == 0 || len(s.Resource) == 0 {
			return nil, fmt.Errorf("statement %q lacks Effect, Action or Resource", s.Sid)
		}
		for op := range s.Condition {
			base := strings.TrimSuffix(strings.TrimPrefix(op, "ForAllValues:"), "IfExists")
			if !slices.Contains([]string{"StringEquals", "StringLike", "Null", "Bool"}, base) {
				return nil, fmt.Errorf("statement %q: condition %s is not known here", s.Sid, op)
			}
		}
		out.Statements = append(out.Statements, s.statement)
	}
	return out, nil
}

// resource is what a call touches: its ARN, the tags it has and those the request puts on it.
type resource struct {
	arn      string
	tags     map[string]string
	newTags  map[string]string
	creating bool
}

var anything = resource{arn: "*"}

// Allows tells whether the policy allows the action on the resource, given the request's context keys.
func (p *Policy) allows(action string, r resource, keys map[string][]string) bool {
	allowed := false
	for _, s := range p.Statements {
		if !slices.ContainsFunc(s.Action, func(a string) bool { return globMatch(strings.ToLower(a), strings.ToLower(action)) }) ||
			!slices.ContainsFunc(s.Resource, func(a string) bool { return a == "*" || globMatch(a, r.arn) }) || !s.holds(keys) {
			continue
		}
		if s.Effect == "Deny" {
			return false
		}
		allowed = true
	}
	return allowed
}

func (s statement) holds(keys map[string][]string) bool {
	for op, conds := range s.Condition {
		for key, want := range conds {
			got, have := keys[key]
			base, ifExists := strings.CutSuffix(op, "IfExists")
			base, forAll := strings.CutPrefix(base, "ForAllValues:")
			one := func(v string) bool {
				return slices.ContainsFunc(want, func(w string) bool {
					return w == v || base == "StringLike" && globMatch(w, v)
				})
			}
			switch {
			case base == "Null":
				if have == (want[0] == "true") {
					return false
				}
			case !have:
				if !ifExists && !forAll {
					return false
				}
			case forAll:
				if slices.ContainsFunc(got, func(v string) bool { return !one(v) }) {
					return false
				}
			default:
				if !slices.ContainsFunc(got, one) {
					return false
				}
			}
		}
	}
	return true
}

// permit asks the account's policy about an action on every resource that it touches. A resource that is created
// with tags needs ec2:CreateTags as well.
func (c *call) permit(action string, extra map[string][]string, on ...resource) *Error {
	p := c.policy()
	if p == nil || c.internal || c.Service+":"+action == "sts:GetCallerIdentity" { // which no policy can deny a caller for want of an Allow
		return nil
	}
	for _, r := range on {
		keys := map[string][]string{"aws:RequestedRegion": {c.Region}}
		for k, v := range extra {
			keys[k] = v
		}
		for k, v := range r.tags {
			keys["aws:ResourceTag/"+k], keys["ec2:ResourceTag/"+k] = []string{v}, []string{v}
		}
		for k, v := range r.newTags {
			keys["aws:RequestTag/"+k] = []string{v}
			keys["aws:TagKeys"] = append(keys["aws:TagKeys"], k)
		}
		if !p.allows(c.Service+":"+action, r, keys) {
			return &Error{403, c.denied(), fmt.Sprintf("You are not authorized to perform this operation. User: %s is not authorized to perform: %s:%s on resource: %s because no identity-based policy allows the %s:%s action", c.who(), c.Service, action, r.arn, c.Service, action)}
		}
		if r.creating && len(r.newTags) > 0 && action != "CreateTags" && c.Service == "ec2" {
			if err := c.permit("CreateTags", map[string][]string{"ec2:CreateAction": {action}}, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *call) denied() string {
	switch c.Service {
	case "ec2":
		return "UnauthorizedOperation"
	case "autoscaling", "iam":
		return "AccessDenied"
	}
	return "AccessDeniedException"
}

// arn names a resource of this account; images and snapshots carry no account in theirs.
func (c *call) arn(kind, id string) string {
	account := c.s.o.Account
	if kind == "image" || kind == "snapshot" {
		account = ""
	}
	return fmt.Sprintf("arn:aws:ec2:%s:%s:%s/%s", c.Region, account, kind, id)
}

func (c *call) res(kind string, m *meta) resource {
	return resource{arn: c.arn(kind, m.id), tags: m.tags}
}

func (c *call) fresh(kind string, tags map[string]string) resource {
	return resource{arn: c.arn(kind, "*"), newTags: tags, creating: true}
}
