// Package awstest is an account at a cloud that speaks the parts of EC2, Auto Scaling, IAM, STS, SSM, CloudWatch and
// the EBS direct APIs which this program uses, for tests. It is strict where the real one is lenient: an action or parameter that it does not know
// is an error and is remembered, every list comes in small pages, a new id is unknown for a while, and what
// depends on something else cannot be removed. State changes take the time that Delays say.
//
// The SDK's own clients talk to it, over HTTP (Server is an http.Handler; set AWS_ENDPOINT_URL) or inside the process
// (Transport), which lets a whole bake run on the virtual clock of testing/synctest.
package awstest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/smithy-go/encoding/cbor"
)

// Options describe the account. The zero value is an account with a default network in every region, where
// everything happens at once.
type Options struct {
	Account     string        // default 123456789012
	Regions     []string      // enabled regions; default us-east-1, eu-west-1, ap-southeast-1
	Delays      Delays        // how long state changes take
	Consistency time.Duration // how long a new id stays unknown to other calls
	PageSize    int           // most items in one answer; default 2
	Policy      *Policy       // what the caller may do; nil allows everything
	Machines    Machines      // what instances run on; nil runs nothing
	Dir         string        // where snapshots keep their blocks; default os.TempDir
	Lesser      Lesser
	// NoDefaultVPC leaves the regions without a network.
	NoDefaultVPC bool
	// NoCapacity lists what cannot be had: "ZONE/SIZE", "spot:ZONE/SIZE", with * for any.
	NoCapacity []string
	// ImageQuota bounds the account's own images per region and VCPUs its running processors; 0 does not.
	ImageQuota, VCPUs int
	// SnapshotError fails the snapshot of every image made from an instance, and every one that was uploaded; CopyError fails copies into these regions.
	SnapshotError string
	CopyError     map[string]string
	// RefreshPatience is for how long an instance refresh goes on whose new machines do not come up; the documentation
	// does not say. Zero ends it with the first.
	RefreshPatience time.Duration
	// ParametersPerSecond bounds how often Parameter Store is read in a second (40 by default at AWS); 0 does not.
	ParametersPerSecond int
}

// Lesser makes the account one of a server that speaks EC2's protocol and knows less of it, as emulators and private
// clouds do.
type Lesser struct {
	Unknown        []string // actions ("DescribeRegions")
	Says           string   // how it answers those: "" as EC2 does, "501" (not implemented), "500" (with a page for people)
	ActsOnDryRun   bool     // DryRun is not read
	NoTags         bool     // TagSpecifications are not read
	NoSnapshotTags bool     // tags for an image's snapshots are refused
	KeepsSnapshots bool     // DeleteAssociatedSnapshots is not read
	Omits          []string // elements that are missing from its answers
}

// Delays are how long EC2 takes.
type Delays struct {
	Run, Stop, Image, Copy, Terminate time.Duration
	Proceed                           time.Duration // between the end of an Auto Scaling group's hooks and what they held up
}

// Machines run instances for real. Without them an instance is only a record. Start, Stop and Console are called with the
// server's lock held: they must be quick.
type Machines interface {
	// Start boots the instance's disk and gives the address that it answers on.
	Start(i Machine) (addr string, err error)
	// Stop asks it to end in an orderly way; the disk stays.
	Stop(id string) error
	// Console is what it printed so far.
	Console(id string) string
}

// Disks is what Machines have that are more than a pretence (QEMU): they take their time to stop, end by themselves, and
// have a disk that an image can be made of.
type Disks interface {
	// Off tells that it has ended, by itself or because of Stop.
	Off(id string) bool
	// Disk writes the root disk of one that is off to a raw file. It may take long.
	Disk(id, file string) error
	// Remove ends it at once, its disk too.
	Remove(id string)
}

// Machine is an instance as Machines see it.
type Machine struct {
	ID, Region, ImageID, UserData string
	Disk                          string // the file of the root volume's snapshot, raw; "" for a catalogue image
	DiskGiB                       int    // the root volume's size; 0 is the snapshot's
	Type, Zone, Subnet, Volume    string
	Account, Profile              string
	Tags                          map[string]string
	MetadataTags, TokensRequired  bool
	MAC, PrivateIP, PublicIP      string // filled in by who knows them
	// Live is the metadata that changes, by its path, where there is such; not to be asked before Start has returned.
	Live func(path string) (text string, found bool)
}

// Call is one request, as hooks and the log see it.
type Call struct {
	N       int // 1 for the first
	Service string
	Region  string
	Action  string
	DryRun  bool
	Params  url.Values // of the query services
}

func (c Call) String() string {
	s := fmt.Sprintf("%d %s %s:%s", c.N, c.Region, c.Service, c.Action)
	if c.DryRun {
		s += " (dry run)"
	}
	return s
}

// Reaction is what a hook does to a call.
type Reaction struct {
	Error *Error // answered instead of acting
	Lose  bool   // act, but lose the answer: the connection breaks
	Dead  bool   // neither act nor answer: the connection breaks
}

// Error is an API error.
type Error struct {
	Status  int // default 400
	Code    string
	Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

func fail(code, format string, args ...any) *Error {
	return &Error{Status: 400, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Server is the account.
type Server struct {
	o       Options
	mu      sync.Mutex
	regions map[string]*region
	calls   []Call
	strict  []string // what a strict reading of a request found wrong
	nextID  int
	expired bool

	roles    map[string]*role
	profiles map[string]*profile
	reads    window
	timer    *time.Timer // of what Auto Scaling groups do by themselves
	wake     time.Time   // when it goes off

	// OnCall, when set, sees every call before it acts. It runs without the server's lock.
	OnCall func(Call) Reaction
}

// New opens an account.
func New(o Options) *Server {
	if o.Account == "" {
		o.Account = "123456789012"
	}
	if o.Regions == nil {
		o.Regions = []string{"us-east-1", "eu-west-1", "ap-southeast-1"}
	}
	if o.PageSize == 0 {
		o.PageSize = 2
	}
	if o.Dir == "" {
		o.Dir = os.TempDir()
	}
	s := &Server{o: o, regions: map[string]*region{}, roles: map[string]*role{}, profiles: map[string]*profile{}}
	for _, name := range o.Regions {
		s.regions[name] = s.newRegion(name)
	}
	return s
}

// Configure changes the account's behaviour while nothing is under way.
func (s *Server) Configure(change func(*Options)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.o)
}

// Expire makes every further call fail as one with expired credentials does.
func (s *Server) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expired = true
}

// Calls lists every call so far, in order.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Complaints lists the unknown actions and parameters that were sent.
func (s *Server) Complaints() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.strict)
}

// Transport answers requests inside the process.
func (s *Server) Transport() http.RoundTripper { return transport{s} }

type transport struct{ s *Server }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	// As in net/http, the caller may go away before the answer comes.
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	err := t.s.serve(w, r)
	if ctxErr := r.Context().Err(); ctxErr != nil {
		return nil, ctxErr
	}
	if err != nil {
		return nil, err
	}
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

// ServeHTTP answers requests over a socket.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.serve(w, r) != nil {
		panic(http.ErrAbortHandler)
	}
}

var (
	errLost   = errors.New("awstest: connection reset by peer")
	scopeForm = regexp.MustCompile(`Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request`)
)

// serve answers one request; an error means that the connection breaks.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Path == "/checkip" {
		_, err := io.WriteString(w, "198.51.100.7\n")
		return err
	}
	scope := scopeForm.FindStringSubmatch(r.Header.Get("Authorization"))
	if scope == nil {
		s.complain("unsigned request %s %s", r.Method, r.URL.Path)
		http.Error(w, "unsigned", http.StatusForbidden)
		return nil
	}
	c := &call{s: s, http: r, Call: Call{Region: scope[2], Service: scope[3]}, role: roleOf(scope[1])}
	if c.Service == "monitoring" { // which policies call by its other name
		c.Service = "cloudwatch"
	}
	if err := c.read(); err != nil {
		return err
	}
	s.mu.Lock()
	c.N = len(s.calls) + 1
	s.calls = append(s.calls, c.Call)
	expired := s.expired
	s.mu.Unlock()

	var react Reaction
	if s.OnCall != nil {
		react = s.OnCall(c.Call)
	}
	if react.Dead {
		return errLost
	}
	var answer any
	err := react.Error
	switch {
	case err != nil:
	case expired:
		err = &Error{403, "ExpiredToken", "The security token included in the request is expired"}
		if c.Service == "ec2" {
			err.Code, err.Message = "RequestExpired", "Request has expired."
		}
	default:
		answer, err = c.do()
	}
	if react.Lose {
		return errLost
	}
	if err != nil {
		c.writeError(w, err)
		return nil
	}
	return c.write(w, answer)
}

func (s *Server) complain(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strict = append(s.strict, fmt.Sprintf(format, args...))
}

// call is a request under way.
type call struct {
	Call
	s        *Server
	r        *region
	f        *form
	http     *http.Request
	body     []byte
	sum      [32]byte // of the body of the EBS direct APIs
	path     []string // likewise
	role     string   // whose session calls; "" for the caller of the tests
	internal bool     // a service's own: no policy is asked
}

func (c *call) read() error {
	var body bytes.Buffer
	body.Grow(int(max(0, min(c.http.ContentLength, 1<<20))) + bytes.MinRead) // a block of a disk is read into one piece
	if _, err := body.ReadFrom(c.http.Body); err != nil {
		return err
	}
	b := body.Bytes()
	c.body = b
	switch {
	case c.Service == "ebs":
		c.path = strings.Split(strings.Trim(c.http.URL.Path, "/"), "/")
		c.Action = ebsAction(c.http.Method, c.path)
		c.sum = sha256.Sum256(b)
	case c.http.Header.Get("Smithy-Protocol") == "rpc-v2-cbor":
		c.Action = path.Base(c.http.URL.Path)
	case c.http.Header.Get("X-Amz-Target") != "":
		_, c.Action, _ = strings.Cut(c.http.Header.Get("X-Amz-Target"), ".")
	default:
		v, err := url.ParseQuery(string(b))
		if err != nil {
			return err
		}
		c.Params, c.Action, c.DryRun = v, v.Get("Action"), v.Get("DryRun") == "true"
		c.f = &form{v: v, used: map[string]bool{"Action": true, "Version": true, "DryRun": true}}
	}
	return nil
}

// do finds the handler and runs it under the lock.
func (c *call) do() (any, *Error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.r = c.s.regions[c.Region]
	if c.r == nil {
		return nil, &Error{401, "AuthFailure", "AWS was not able to validate the provided access credentials"}
	}
	for _, r := range c.s.regions {
		r.settle()
	}
	c.s.settleGroups()
	defer c.s.settleGroups()
	h := handlers[c.Service+":"+c.Action]
	lesser := c.s.o.Lesser
	if slices.Contains(lesser.Unknown, c.Action) {
		switch lesser.Says {
		case "501":
			return nil, &Error{501, "InternalFailure", fmt.Sprintf("The API action '%s' for service '%s' is not implemented", c.Action, c.Service)}
		case "500":
			return nil, &Error{500, "", "<!doctype html>\n<title>500 Internal Server Error</title>"}
		}
		return nil, fail("InvalidAction", "The action %s is not valid for this web service.", c.Action)
	}
	if lesser.ActsOnDryRun {
		c.DryRun = false
	}
	if c.f != nil && lesser.NoTags {
		for k := range c.f.v {
			if strings.HasPrefix(k, "TagSpecification.") {
				c.f.v.Del(k)
			}
		}
	}
	if c.f != nil && lesser.NoSnapshotTags && slices.ContainsFunc(c.f.groups("TagSpecification"), func(p string) bool { return c.f.v.Get(p+"ResourceType") == "snapshot" }) {
		return nil, &Error{500, "", "<!doctype html>\n<title>500 Internal Server Error</title>"}
	}
	if h == nil {
		c.s.strict = append(c.s.strict, "unknown action "+c.Service+":"+c.Action)
		return nil, fail("InvalidAction", "The action %s is not valid for this web service.", c.Action)
	}
	return h(c)
}

// begin ends the reading of parameters: unknown ones, permission and dry run are settled before anything happens.
func (c *call) begin(on ...resource) *Error {
	if c.f != nil {
		if left := c.f.rest(); len(left) > 0 {
			c.s.strict = append(c.s.strict, fmt.Sprintf("%s: unknown parameters %s", c.Action, strings.Join(left, ", ")))
			return fail("UnknownParameter", "The parameter %s is not recognized", left[0])
		}
		if c.f.err != nil {
			return c.f.err
		}
	}
	if err := c.permit(c.Action, nil, on...); err != nil {
		return err
	}
	if c.DryRun {
		return &Error{412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set."}
	}
	return nil
}

var handlers map[string]func(*call) (any, *Error)

func init() {
	handlers = map[string]func(*call) (any, *Error){
		"sts:GetCallerIdentity":   callerIdentity,
		"ec2:DescribeRegions":     describeRegions,
		"ec2:DescribeSubnets":     describeSubnets,
		"ec2:DescribeRouteTables": describeRouteTables,

		"ec2:DescribeInstanceTypeOfferings": describeOfferings,
		"ec2:CreateSecurityGroup":           createGroup,
		"ec2:AuthorizeSecurityGroupIngress": authorizeGroup,
		"ec2:DescribeSecurityGroups":        describeGroups,
		"ec2:DeleteSecurityGroup":           deleteGroup,

		"ec2:RunInstances":            runInstances,
		"ec2:DescribeInstances":       describeInstances,
		"ec2:StopInstances":           stopInstances,
		"ec2:TerminateInstances":      terminateInstances,
		"ec2:ModifyInstanceAttribute": modifyInstance,
		"ec2:GetConsoleOutput":        consoleOutput,

		"ec2:DescribeImages":         describeImages,
		"ec2:CreateImage":            createImage,
		"ec2:CopyImage":              copyImage,
		"ec2:RegisterImage":          registerImage,
		"ec2:DeregisterImage":        deregisterImage,
		"ec2:ModifyImageAttribute":   modifyImage,
		"ec2:EnableImageDeprecation": deprecateImage,

		"ec2:EnableImageDeregistrationProtection":  protectImage,
		"ec2:DisableImageDeregistrationProtection": unprotectImage,
		"ec2:DescribeImageReferences":              describeReferences,
		"ec2:DescribeSnapshots":                    describeSnapshots,
		"ec2:DeleteSnapshot":                       deleteSnapshot,
		"ec2:ModifySnapshotAttribute":              modifySnapshot,
		"ec2:CreateTags":                           createTags,
		"ec2:DeleteTags":                           deleteTags,

		"ec2:CreateLaunchTemplate":           createTemplate,
		"ec2:CreateLaunchTemplateVersion":    createTemplateVersion,
		"ec2:ModifyLaunchTemplate":           modifyTemplate,
		"ec2:DescribeLaunchTemplates":        describeTemplates,
		"ec2:DescribeLaunchTemplateVersions": describeTemplateVersions,
		"ec2:DeleteLaunchTemplate":           deleteTemplate,
		"ec2:DeleteLaunchTemplateVersions":   deleteTemplateVersions,

		"iam:CreateRole":                    createRole,
		"iam:GetRole":                       getRole,
		"iam:DeleteRole":                    deleteRole,
		"iam:PutRolePolicy":                 putRolePolicy,
		"iam:GetRolePolicy":                 getRolePolicy,
		"iam:ListRolePolicies":              listRolePolicies,
		"iam:DeleteRolePolicy":              deleteRolePolicy,
		"iam:CreateInstanceProfile":         createProfile,
		"iam:GetInstanceProfile":            getProfile,
		"iam:DeleteInstanceProfile":         deleteProfile,
		"iam:AddRoleToInstanceProfile":      addRoleToProfile,
		"iam:RemoveRoleFromInstanceProfile": removeRoleFromProfile,

		"ssm:PutParameter": putParameter,
		"ssm:GetParameter": getParameter,

		"ebs:StartSnapshot":      startSnapshot,
		"ebs:PutSnapshotBlock":   putBlock,
		"ebs:CompleteSnapshot":   completeSnapshot,
		"ebs:ListSnapshotBlocks": listBlocks,
		"ebs:GetSnapshotBlock":   getBlock,
	}
	maps.Copy(handlers, scalingHandlers)
}

// raw is an answer that is not XML or JSON.
type raw struct {
	header map[string]string
	body   []byte
}

func (c *call) write(w http.ResponseWriter, answer any) error {
	switch c.Service {
	case "ec2", "sts", "iam", "autoscaling":
		var inner bytes.Buffer
		e := xml.NewEncoder(&inner)
		if answer != nil {
			if err := e.EncodeElement(answer, xml.StartElement{Name: xml.Name{Local: "x"}}); err != nil {
				return err
			}
		}
		body := strings.TrimSuffix(strings.TrimPrefix(inner.String(), "<x>"), "</x>")
		for _, name := range c.s.o.Lesser.Omits {
			body = regexp.MustCompile("(?s)<"+name+">.*?</"+name+">").ReplaceAllString(body, "")
		}
		space := "http://ec2.amazonaws.com/doc/2016-11-15/"
		if c.Service != "ec2" {
			space = "https://" + c.Service + ".amazonaws.com/doc/"
			body = fmt.Sprintf("<%[1]sResult>%[2]s</%[1]sResult>", c.Action, body)
		}
		w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
		_, err := fmt.Fprintf(w, `<%[1]sResponse xmlns="%[4]s"><requestId>r-%[2]d</requestId>%[3]s</%[1]sResponse>`, c.Action, c.N, body, space)
		return err
	}
	if b, ok := answer.(cbor.Map); ok {
		return c.writeCBOR(w, http.StatusOK, b)
	}
	if b, ok := answer.(raw); ok {
		for k, v := range b.header {
			w.Header().Set(k, v)
		}
		_, err := w.Write(b.body)
		return err
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	switch c.Action {
	case "StartSnapshot", "PutSnapshotBlock":
		w.WriteHeader(http.StatusCreated)
	case "CompleteSnapshot":
		w.WriteHeader(http.StatusAccepted)
	}
	return json.NewEncoder(w).Encode(answer)
}

func (c *call) writeError(w http.ResponseWriter, e *Error) {
	status := e.Status
	if status == 0 {
		status = 400
	}
	if e.Code == "" { // no answer of the protocol's
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, e.Message)
		return
	}
	switch c.Service {
	case "ec2", "sts", "iam", "autoscaling":
		w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
		w.WriteHeader(status)
		var code, msg bytes.Buffer
		_ = xml.EscapeText(&code, []byte(e.Code)) // a bytes.Buffer does not fail
		_ = xml.EscapeText(&msg, []byte(e.Message))
		form := `<Response><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors><RequestID>r-%d</RequestID></Response>`
		if c.Service != "ec2" {
			form = `<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>r-%d</RequestId></ErrorResponse>`
		}
		_, _ = fmt.Fprintf(w, form, code.String(), msg.String(), c.N)
	case "cloudwatch":
		_ = c.writeCBOR(w, status, cbor.Map{"__type": cbor.String("com.amazonaws.cloudwatch#" + e.Code), "message": cbor.String(e.Message)})
	default:
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.Header().Set("X-Amzn-ErrorType", e.Code)
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": e.Code, "message": e.Message})
	}
}

func (*call) writeCBOR(w http.ResponseWriter, status int, v cbor.Map) error {
	w.Header().Set("Content-Type", "application/cbor")
	w.Header().Set("Smithy-Protocol", "rpc-v2-cbor")
	w.WriteHeader(status)
	_, err := w.Write(cbor.Encode(v))
	return err
}

func callerIdentity(c *call) (any, *Error) {
	if err := c.begin(anything); err != nil {
		return nil, err
	}
	type answer struct{ Arn, UserId, Account string }
	return answer{c.s.caller(), "AIDATEST", c.s.o.Account}, nil
}

func (s *Server) caller() string { return "arn:aws:iam::" + s.o.Account + ":user/baker" }
