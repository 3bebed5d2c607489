package images

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// canonicalRef writes a reference in full, so that dataopslive/dataops-runner and
// docker.io/dataopslive/dataops-runner:latest are one. A digest says everything: a tag beside it is dropped.
func canonicalRef(ref string) (name.Reference, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("%q is not a container image reference", ref)
	}
	return r, nil
}

// defaultImages lets an archive stand in for the runner's images: where the author names none, an image.pull entry
// with an archive of the default's repository decides the tag too.
func (s *Spec) defaultImages() {
	for _, p := range s.Image.Pull {
		ref, err := canonicalRef(p.Ref)
		if p.Archive == "" || err != nil {
			continue
		}
		for _, image := range []struct {
			field *string
			def   string
		}{{&s.Runner.Image, runner.DefaultImage}, {&s.Runner.JobImage, runner.DefaultJobImage}} {
			if *image.field == "" && ref.Context() == mustRef(image.def).Context() && ref.Name() != mustRef(image.def).Name() {
				*image.field = p.Ref
			}
		}
	}
}

func mustRef(ref string) name.Reference {
	r, err := canonicalRef(ref)
	if err != nil { // a constant of ours
		panic(err)
	}
	return r
}

// containers lists the container images that the machine image will hold: the runner's own, the job image, then
// image.pull. One reference appears once, and an entry with an archive wins over one that would be pulled.
func (r *rules) containers() []Pull {
	var list []Pull
	at := map[string]int{}
	add := func(p Pull, path string) {
		ref, err := canonicalRef(p.Ref)
		if err != nil {
			r.bad(path, err.Error(), "write it as repository[:tag][@sha256:...]")
			return
		}
		if i, twice := at[ref.Name()]; !twice {
			at[ref.Name()] = len(list)
			list = append(list, p)
		} else if list[i].Archive == "" {
			list[i] = p
		} else if p.Archive != "" && p.Archive != list[i].Archive {
			r.bad(path, fmt.Sprintf("%s has two archives", p.Ref), "keep one")
		}
	}
	s := r.spec
	for _, image := range []string{s.Runner.Image, s.Runner.JobImage} {
		if _, err := canonicalRef(image); err == nil { // what is wrong with it, the runner's own rules say
			add(Pull{Ref: image}, "")
		}
	}
	for i, p := range s.Image.Pull {
		path := fmt.Sprintf("image.pull[%d]", i)
		if p.Ref == "" {
			r.bad(path, "the entry has no ref", "name the container image: ref: repository[:tag]")
			continue
		}
		add(p, path+".ref")
		if p.Archive != "" {
			r.archive(path, p)
		}
	}
	return list
}

// archive checks that a local archive can stand in for a reference.
func (r *rules) archive(path string, p Pull) {
	if strings.Contains(p.Ref, "@") {
		r.bad(path+".ref", "an archive cannot stand in for a digest: Docker knows a loaded image by its tag only", "name the tag that the archive holds")
		return
	}
	want, err := canonicalRef(p.Ref)
	if err != nil {
		return // reported already
	}
	id, tags, err := readArchive(p.Archive, want.Name())
	switch {
	case err != nil:
		r.bad(path+".archive", err.Error(), "make one with docker save -o FILE "+p.Ref)
	case id == "":
		hint := "it holds no tags: save it by name"
		if len(tags) > 0 {
			hint = "it holds " + strings.Join(tags, ", ")
		}
		r.bad(path+".archive", fmt.Sprintf("%s does not hold %s", filepath.Base(p.Archive), p.Ref), hint)
	default:
		if r.archives == nil {
			r.archives = map[string]string{}
		}
		r.archives[p.Archive+" "+want.Name()] = id
	}
}
