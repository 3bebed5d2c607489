package awstest

import (
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// role is one of IAM's, which has no regions.
type role struct {
	meta
	name, trust, desc string
	policies          map[string]string
	parsed            *Policy // of the policies together
	open              bool    // it may do everything
}

// allow brings what the role may do up to date.
func (r *role) allow() {
	r.parsed = &Policy{}
	for _, doc := range r.policies {
		if p, err := ParsePolicy([]byte(doc)); err == nil { // it was checked when it was put
			r.parsed.Statements = append(r.parsed.Statements, p.Statements...)
		}
	}
}

// The access keys that instance metadata gives to a machine name the role.
const roleKey = "ASIAROLE."

func roleOf(accessKey string) string {
	name, ok := strings.CutPrefix(accessKey, roleKey)
	if !ok {
		return ""
	}
	return name
}

// policy is what the caller may do; nil allows everything.
func (c *call) policy() *Policy {
	if c.role == "" {
		return c.s.o.Policy
	}
	r := c.s.roles[c.role]
	switch {
	case r == nil:
		return &Policy{}
	case r.open:
		return nil
	}
	return r.parsed
}

func (c *call) who() string {
	if c.role == "" {
		return c.s.caller()
	}
	return "arn:aws:sts::" + c.s.o.Account + ":assumed-role/" + c.role + "/machine"
}

// profile is an instance profile: the form in which a machine gets a role.
type profile struct {
	meta
	name, role string
}

// AddRole puts a role and an instance profile of somebody else's into the account; the role may do everything.
func (s *Server) AddRole(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &role{meta: s.newMeta("AROA", nil), name: name, policies: map[string]string{}, open: true}
	p := &profile{meta: s.newMeta("AIPA", nil), name: name, role: name}
	r.visible, p.visible = time.Time{}, time.Time{}
	s.roles[name], s.profiles[name] = r, p
}

// RolePolicy is the text of a role's own policy, "" when there is none.
func (s *Server) RolePolicy(roleName, policy string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.roles[roleName]; r != nil {
		return r.policies[policy]
	}
	return ""
}

func (s *Server) iamARN(kind, name string) string {
	return "arn:aws:iam::" + s.o.Account + ":" + kind + "/" + name
}

func (c *call) onRole(name string) resource {
	on := resource{arn: c.s.iamARN("role", name)}
	if r := c.s.roles[name]; r != nil {
		on.tags = r.tags
	}
	return on
}

func (c *call) onProfile(name string) resource {
	on := resource{arn: c.s.iamARN("instance-profile", name)}
	if p := c.s.profiles[name]; p != nil {
		on.tags = p.tags
	}
	return on
}

func noEntity(format string, args ...any) *Error {
	e := fail("NoSuchEntity", format, args...)
	e.Status = 404
	return e
}

func conflict(code, format string, args ...any) *Error {
	e := fail(code, format, args...)
	e.Status = 409
	return e
}

// findRole gives one that is known by now; IAM takes its time as well.
func (c *call) findRole(name string) (*role, *Error) {
	if r := c.s.roles[name]; r != nil && !time.Now().Before(r.visible) {
		return r, nil
	}
	return nil, noEntity("The role with name %s cannot be found.", name)
}

func (c *call) findProfile(name string) (*profile, *Error) {
	if p := c.s.profiles[name]; p != nil && !time.Now().Before(p.visible) {
		return p, nil
	}
	return nil, noEntity("Instance Profile %s cannot be found.", name)
}

// roleNamed and profileNamed are what a call is about, once the caller may make it.
func (c *call) roleNamed(name string) (*role, *Error) {
	if err := c.begin(c.onRole(name)); err != nil {
		return nil, err
	}
	return c.findRole(name)
}

func (c *call) profileNamed(name string) (*profile, *Error) {
	if err := c.begin(c.onProfile(name)); err != nil {
		return nil, err
	}
	return c.findProfile(name)
}

type roleItem struct {
	Path, RoleName, RoleId, Arn, CreateDate, AssumeRolePolicyDocument string
	Description                                                       string            `xml:",omitempty"`
	Tags                                                              members[queryTag] `xml:",omitempty"`
}

func (c *call) roleItem(r *role) roleItem {
	return roleItem{"/", r.name, r.id, c.s.iamARN("role", r.name), stamp(r.created), url.QueryEscape(r.trust), r.desc, tagItems(r.tags)}
}

type profileItem struct {
	Path, InstanceProfileName, InstanceProfileId, Arn, CreateDate string
	Roles                                                         members[roleItem]
	Tags                                                          members[queryTag]
}

func (c *call) profileItem(p *profile) profileItem {
	it := profileItem{"/", p.name, p.id, c.s.iamARN("instance-profile", p.name), stamp(p.created), members[roleItem]{}, tagItems(p.tags)}
	if r := c.s.roles[p.role]; r != nil {
		it.Roles.Member = []roleItem{c.roleItem(r)}
	}
	return it
}

func createRole(c *call) (any, *Error) {
	name, trust, desc := c.f.need("RoleName"), c.f.need("AssumeRolePolicyDocument"), c.f.str("Description")
	tags := c.f.tagList("Tags.member")
	c.f.num("MaxSessionDuration")
	on := c.onRole(name)
	on.newTags, on.creating = tags, true
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if c.s.roles[name] != nil {
		return nil, conflict("EntityAlreadyExists", "Role with name %s already exists.", name)
	}
	if len(name) > 64 {
		return nil, fail("ValidationError", "1 validation error detected: Value '%s' at 'roleName' failed to satisfy constraint: Member must have length less than or equal to 64", name)
	}
	r := &role{meta: c.s.newMeta("AROA", tags), name: name, trust: trust, desc: desc, policies: map[string]string{}, parsed: &Policy{}}
	c.s.roles[name] = r
	return struct{ Role roleItem }{c.roleItem(r)}, nil
}

func getRole(c *call) (any, *Error) {
	name := c.f.need("RoleName")
	r, err := c.roleNamed(name)
	if err != nil {
		return nil, err
	}
	return struct{ Role roleItem }{c.roleItem(r)}, nil
}

func deleteRole(c *call) (any, *Error) {
	name := c.f.need("RoleName")
	r, err := c.roleNamed(name)
	if err != nil {
		return nil, err
	}
	if len(r.policies) > 0 {
		return nil, conflict("DeleteConflict", "Cannot delete entity, must delete policies first.")
	}
	for _, p := range c.s.profiles {
		if p.role == name {
			return nil, conflict("DeleteConflict", "Cannot delete entity, must remove roles from instance profile first.")
		}
	}
	delete(c.s.roles, name)
	return nil, nil
}

func putRolePolicy(c *call) (any, *Error) {
	name, policy, doc := c.f.need("RoleName"), c.f.need("PolicyName"), c.f.need("PolicyDocument")
	r, err := c.roleNamed(name)
	if err != nil {
		return nil, err
	}
	if _, perr := ParsePolicy([]byte(doc)); perr != nil {
		return nil, fail("MalformedPolicyDocument", "%v", perr)
	}
	r.policies[policy] = doc
	r.allow()
	return nil, nil
}

func getRolePolicy(c *call) (any, *Error) {
	name, policy := c.f.need("RoleName"), c.f.need("PolicyName")
	r, err := c.roleNamed(name)
	if err != nil {
		return nil, err
	}
	doc, ok := r.policies[policy]
	if !ok {
		return nil, noEntity("The role policy with name %s cannot be found.", policy)
	}
	return struct{ RoleName, PolicyName, PolicyDocument string }{name, policy, url.QueryEscape(doc)}, nil
}

func listRolePolicies(c *call) (any, *Error) {
	name := c.f.need("RoleName")
	r, err := c.roleNamed(name)
	if err != nil {
		return nil, err
	}
	return struct {
		PolicyNames members[string]
		IsTruncated bool
	}{members[string]{slices.Sorted(maps.Keys(r.policies))}, false}, nil
}

func deleteRolePolicy(c *call) (any, *Error) {
	name, policy := c.f.need("RoleName"), c.f.need("PolicyName")
	r, err := c.roleNamed(name)
	if err != nil {
		return nil, err
	}
	if _, ok := r.policies[policy]; !ok {
		return nil, noEntity("The role policy with name %s cannot be found.", policy)
	}
	delete(r.policies, policy)
	r.allow()
	return nil, nil
}

func createProfile(c *call) (any, *Error) {
	name, tags := c.f.need("InstanceProfileName"), c.f.tagList("Tags.member")
	on := c.onProfile(name)
	on.newTags, on.creating = tags, true
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if c.s.profiles[name] != nil {
		return nil, conflict("EntityAlreadyExists", "Instance Profile %s already exists.", name)
	}
	p := &profile{meta: c.s.newMeta("AIPA", tags), name: name}
	c.s.profiles[name] = p
	return struct{ InstanceProfile profileItem }{c.profileItem(p)}, nil
}

func getProfile(c *call) (any, *Error) {
	name := c.f.need("InstanceProfileName")
	p, err := c.profileNamed(name)
	if err != nil {
		return nil, err
	}
	return struct{ InstanceProfile profileItem }{c.profileItem(p)}, nil
}

func deleteProfile(c *call) (any, *Error) {
	name := c.f.need("InstanceProfileName")
	p, err := c.profileNamed(name)
	if err != nil {
		return nil, err
	}
	if p.role != "" {
		return nil, conflict("DeleteConflict", "Cannot delete entity, must remove roles from instance profile first.")
	}
	delete(c.s.profiles, name)
	return nil, nil
}

func addRoleToProfile(c *call) (any, *Error) {
	name, of := c.f.need("InstanceProfileName"), c.f.need("RoleName")
	if err := c.begin(c.onProfile(name)); err != nil {
		return nil, err
	}
	if err := c.permitPass(of); err != nil {
		return nil, err
	}
	p, err := c.findProfile(name)
	if err != nil {
		return nil, err
	}
	if _, err := c.findRole(of); err != nil {
		return nil, err
	}
	if p.role != "" {
		return nil, conflict("LimitExceeded", "Cannot exceed quota for InstanceSessionsPerInstanceProfile: 1")
	}
	p.role = of
	return nil, nil
}

func removeRoleFromProfile(c *call) (any, *Error) {
	name, of := c.f.need("InstanceProfileName"), c.f.need("RoleName")
	p, err := c.profileNamed(name)
	if err != nil {
		return nil, err
	}
	if p.role != of {
		return nil, noEntity("Role %s is not associated with instance profile %s", of, name)
	}
	p.role = ""
	return nil, nil
}

// checkProfile refuses an instance profile that EC2 cannot use: for some time after it was made, it does not know it.
func (c *call) checkProfile(text string) *Error {
	if text == "" {
		return nil
	}
	p, err := c.findProfile(path.Base(text))
	switch {
	case err != nil:
		return fail("InvalidParameterValue", "Value (%s) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name", text)
	case p.role == "":
		return fail("InvalidParameterValue", "Value (%s) for parameter iamInstanceProfile.name is invalid. IAM Instance Profile has no associated IAM Roles", text)
	}
	return nil
}
