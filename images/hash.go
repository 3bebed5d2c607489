package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"text/template"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// hashVersion changes when this program bakes something else from the same plan.
const hashVersion = 1

// BakedRunner is what an image knows of its runner: everything but the identity (name, url, token), which user-data
// brings, and without secrets that are not references.
func (p *Plan) BakedRunner() runner.Spec {
	s := p.Spec.Runner
	s.Name, s.URL, s.Token = "", "", runner.Secret{}
	for _, secret := range []*runner.Secret{&s.Vault.Content, &s.Vault.Salt} {
		if secret.IsPlain() {
			*secret = runner.Secret{}
		}
	}
	return s
}

// hash covers everything that reaches the image and nothing else: not the size or region of the machine that bakes,
// no login, no identity. Archives count by the id of the image in them, scripts by their content. A base file counts by
// base_sha256, or else by name, size and time of change.
func (p *Plan) hash(archives map[string]string) (string, error) {
	baked, err := runner.Encode(p.BakedRunner(), runner.EncodeOptions{})
	if err != nil {
		return "", err
	}
	type container struct{ Ref, ID string }
	in := struct {
		Version                  int
		Platform, OS, Arch, Base string
		Docker                   Docker
		Containers               []container
		Scripts                  []string
		Runner, AdminUser        string
		DiskGB                   int
	}{
		Version: hashVersion, Platform: p.Platform, OS: p.Spec.Image.OS, Arch: p.Spec.Image.Arch, Base: targets[p.Target].base(&p.Spec),
		Docker: p.Spec.Image.Docker, Runner: string(baked), AdminUser: p.Spec.Image.AdminUser, DiskGB: p.Spec.Image.DiskGB,
	}
	for _, c := range p.Containers {
		full := mustRef(c.Ref).Name()
		in.Containers = append(in.Containers, container{full, archives[c.Archive+" "+full]})
	}
	for _, s := range p.Scripts {
		in.Scripts = append(in.Scripts, string(s.Content))
	}
	text, err := json.Marshal(in)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// HashWith is the plan's hash with more mixed in that reaches the image, such as the digest of the first-boot program
// that the engine found. Without arguments it is Hash.
func (p *Plan) HashWith(extra ...string) string {
	if len(extra) == 0 {
		return p.Hash
	}
	sum := sha256.Sum256([]byte(p.Hash + "\n" + strings.Join(extra, "\n")))
	return hex.EncodeToString(sum[:])
}

// ImageName renders image.name for an image of the given hash baked at the given time.
func (p *Plan) ImageName(hash string, now time.Time) (string, error) {
	return imageName(p.Spec.Image, hash, now)
}

// anyDate stands for the time of a bake where a name is only checked.
var anyDate = time.Date(2006, 1, 2, 15, 4, 5, 0, time.UTC)

func imageName(i Image, hash string, now time.Time) (string, error) {
	t, err := template.New("image.name").Option("missingkey=error").Parse(i.Name)
	if err != nil {
		return "", errors.New(templateError("the template does not parse: " + err.Error()))
	}
	var b strings.Builder
	err = t.Execute(&b, map[string]string{
		"OS": i.OS, "Arch": i.Arch, "Hash": hash[:min(12, len(hash))], "Date": now.UTC().Format("20060102-150405"),
	})
	if err != nil {
		return "", errors.New(templateError("the template does not render: " + err.Error()))
	}
	return b.String(), nil
}

// templateNoise is what text/template says beyond the mistake: the template's name and position, and Go's types.
const templateNoise = `template: [a-z.]+:\d+(:\d+)?: (executing "[^"]*" at )?| in type [\w.]+`

// templateError leaves of an error of text/template what an author understands.
func templateError(text string) string {
	return regexp.MustCompile(templateNoise).ReplaceAllString(text, "")
}
