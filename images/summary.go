package images

import (
	"encoding/json"
	"reflect"
	"slices"

	"gopkg.in/yaml.v3"
)

// Targets are those whose sections were written, or metal, which needs none.
func (s *Spec) Targets() []string {
	var names []string
	for f := range fields(reflect.TypeFor[Spec]()) {
		if _, ok := targets[f.key]; ok && !reflect.ValueOf(s).Elem().Field(f.index).IsZero() {
			names = append(names, f.key)
		}
	}
	if names == nil {
		names = []string{"metal"}
	}
	return names
}

// Summary is a plan to show: without secrets, and only what was said or decided.
type Summary struct {
	Target     string      `json:"target"`
	Platform   string      `json:"platform"`
	Hash       string      `json:"hash"`
	Base       string      `json:"base"`
	Size       *Size       `json:"size,omitempty"`
	Containers []Pull      `json:"containers"`
	Scripts    []string    `json:"scripts,omitempty"`
	Spec       summarySpec `json:"spec"`
	Warnings   Problems    `json:"warnings,omitempty"`
}

// summarySpec is the effective spec, in the order of its keys.
type summarySpec struct{ yaml.Node }

// MarshalJSON serves --json.
func (s summarySpec) MarshalJSON() ([]byte, error) {
	var v map[string]any
	if err := s.Decode(&v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// Summary tells what was decided.
func (p *Plan) Summary() Summary {
	s := Summary{
		Target: p.Target, Platform: p.Platform, Hash: p.Hash, Base: p.Base.OS, Containers: p.Containers, Warnings: p.Warnings,
		Scripts: p.Spec.Image.Scripts,
	}
	if p.Size.CPUs > 0 {
		s.Size = &p.Size
	}
	if err := s.Spec.Encode(p.Spec); err != nil { // every type of it can be encoded
		panic(err)
	}
	prune(&s.Spec.Node)
	for i := 0; i < len(s.Spec.Content); { // the other targets' sections, and a fleet that is not, decide nothing here
		key := s.Spec.Content[i].Value
		_, section := targets[key]
		if section && key != p.Target || key == "fleet" && p.Spec.Fleet.isZero() {
			s.Spec.Content = slices.Delete(s.Spec.Content, i, i+2)
			continue
		}
		i += 2
	}
	return s
}

// prune drops the keys that say nothing.
func prune(n *yaml.Node) {
	for _, c := range n.Content {
		prune(c)
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	var kept []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		v := n.Content[i+1]
		empty := v.Tag == "!!null" || v.Kind == yaml.ScalarNode && (v.Value == "" || v.Tag == "!!int" && v.Value == "0") ||
			v.Kind != yaml.ScalarNode && len(v.Content) == 0
		if !empty {
			kept = append(kept, n.Content[i], v)
		}
	}
	n.Content = kept
}
