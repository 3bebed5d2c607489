package awstest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// metadataVersions are those that this service has; clients look for the newest that they know.
var metadataVersions = []string{"2009-04-04", "2016-09-02", "2018-09-24", "2020-10-27", "2021-03-23", "2022-09-24", "latest"}

// Metadata serves the instance metadata of one machine, version 2 only: a session token is asked for first.
func Metadata(m Machine) http.Handler {
	s := &metadata{m: m, paths: map[string]string{}}
	set := func(path, text string) {
		if text != "" {
			s.paths[path] = text
		}
	}
	host := "ip-" + strings.ReplaceAll(m.PrivateIP, ".", "-") + "." + m.Region + ".compute.internal"
	for k, v := range map[string]string{
		"ami-id": m.ImageID, "ami-launch-index": "0", "hostname": host, "local-hostname": host, "instance-action": "none", "instance-id": m.ID,
		"instance-life-cycle": "on-demand", "instance-type": m.Type, "local-ipv4": m.PrivateIP, "mac": m.MAC, "placement/availability-zone": m.Zone,
		"placement/region": m.Region, "public-ipv4": m.PublicIP, "services/domain": "amazonaws.com", "services/partition": "aws",
		"block-device-mapping/ami": "/dev/sda1", "block-device-mapping/root": "/dev/sda1",
	} {
		set("meta-data/"+k, v)
	}
	for k, v := range map[string]string{"device-number": "0", "interface-id": "eni-" + m.ID, "local-hostname": host, "local-ipv4s": m.PrivateIP, "mac": m.MAC,
		"owner-id": m.Account, "public-ipv4s": m.PublicIP, "subnet-id": m.Subnet, "subnet-ipv4-cidr-block": "169.254.0.0/16"} {
		set("meta-data/network/interfaces/macs/"+m.MAC+"/"+k, v)
	}
	if m.MetadataTags {
		for k, v := range m.Tags {
			set("meta-data/tags/instance/"+k, v)
		}
	}
	if m.Profile != "" {
		set("meta-data/iam/info", fmt.Sprintf(`{"Code":"Success","InstanceProfileArn":"arn:aws:iam::%s:instance-profile/%s"}`, m.Account, m.Profile))
		set("meta-data/iam/security-credentials/"+m.Profile, fmt.Sprintf(`{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"AKIDROLE","SecretAccessKey":"secret","Token":"session","LastUpdated":%q,"Expiration":%q}`,
			stamp(time.Now()), stamp(time.Now().Add(6*time.Hour))))
	}
	set("user-data", m.UserData)
	doc, _ := json.Marshal(map[string]any{"accountId": m.Account, "architecture": "x86_64", "availabilityZone": m.Zone, "imageId": m.ImageID, "instanceId": m.ID, // texts alone
		"instanceType": m.Type, "pendingTime": stamp(time.Now()), "privateIp": m.PrivateIP, "region": m.Region, "version": "2017-09-30"})
	set("dynamic/instance-identity/document", string(doc))
	return s
}

// metadata is what one machine is told.
type metadata struct {
	m     Machine
	paths map[string]string

	mu     sync.Mutex
	tokens map[string]time.Time // with their ends
}

func (s *metadata) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const ttl = "X-aws-ec2-metadata-token-ttl-seconds"
	s.mu.Lock()
	defer s.mu.Unlock()
	version, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if r.Method == http.MethodPut && version == "latest" && path == "api/token" {
		n, err := strconv.Atoi(r.Header.Get(ttl))
		if err != nil || n < 1 || n > 21600 || r.Header.Get("X-Forwarded-For") != "" {
			http.Error(w, "", http.StatusBadRequest)
			return
		}
		if s.tokens == nil {
			s.tokens = map[string]time.Time{}
		}
		token := fmt.Sprintf("token-%s-%d", s.m.ID, len(s.tokens))
		s.tokens[token] = time.Now().Add(time.Duration(n) * time.Second)
		w.Header().Set(ttl, strconv.Itoa(n))
		_, _ = fmt.Fprint(w, token) // a client that has gone needs none
		return
	}
	if s.m.TokensRequired && !time.Now().Before(s.tokens[r.Header.Get("X-aws-ec2-metadata-token")]) {
		http.Error(w, "", http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	text, found := s.paths[path]
	if live := s.m.Live; live != nil {
		if now, has := live(path); has {
			text, found = now, true
		}
	}
	switch {
	case r.Method != http.MethodGet:
		http.Error(w, "", http.StatusMethodNotAllowed)
	case version == "":
		_, _ = fmt.Fprint(w, strings.Join(metadataVersions, "\n"))
	case !slices.Contains(metadataVersions, version):
		http.NotFound(w, r)
	case found:
		_, _ = fmt.Fprint(w, text)
	default:
		if list := s.below(path); len(list) > 0 {
			_, _ = fmt.Fprint(w, strings.Join(list, "\n"))
			return
		}
		http.NotFound(w, r)
	}
}

// below lists what a directory holds; names of directories end in a slash, those of tags are as they are.
func (s *metadata) below(path string) []string {
	dir := strings.TrimSuffix(path, "/")
	if dir != "" {
		dir += "/"
	}
	in := map[string]bool{}
	for p := range s.paths {
		rest, ok := strings.CutPrefix(p, dir)
		if !ok {
			continue
		}
		name, _, more := strings.Cut(rest, "/")
		if more {
			name += "/"
		}
		in[name] = true
	}
	return slices.Sorted(maps.Keys(in))
}

// live is what metadata says of an instance that changes: the state that its group brings it to, and credentials of
// its role, which are good for what the role's policies allow.
func (s *Server) live(regionName, id, path string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.regions {
		r.settle()
	}
	s.settleGroups()
	r := s.regions[regionName]
	i := r.instances[id]
	if i == nil {
		return "", false
	}
	const credentials = "meta-data/iam/security-credentials/" //nolint:gosec // where they are found
	switch profile := i.profile[strings.LastIndex(i.profile, "/")+1:]; {
	case path == "meta-data/autoscaling/target-lifecycle-state":
		if g := r.scalingOf(id); g == nil {
			return "", false
		} else if strings.HasPrefix(g.members[id].state, terminatingPlain) {
			return "Terminated", true
		}
		return inService, true
	case profile != "" && path == credentials+profile:
		p := s.profiles[profile]
		if p == nil || p.role == "" {
			return "", false
		}
		now := time.Now()
		return fmt.Sprintf(`{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":%q,"SecretAccessKey":"secret","Token":"session","LastUpdated":%q,"Expiration":%q}`,
			roleKey+p.role, stamp(now), stamp(now.Add(6*time.Hour))), true
	}
	return "", false
}
