package images

import (
	"reflect"
	"slices"
)

// Fleet is a group of identical runners on a cloud's own autoscaling engine.
type Fleet struct {
	Name             string   `yaml:"name"`
	Min              int      `yaml:"min"`
	Max              int      `yaml:"max"`
	Desired          int      `yaml:"desired"`
	Sizes            []string `yaml:"sizes"`
	SpotShare        int      `yaml:"spot_share"` // percent of the machines above min
	Subnets          []string `yaml:"subnets"`
	Image            string   `yaml:"image"`                      // latest (default) or an image id
	VolumeRate       int      `yaml:"volume_initialization_rate"` // MiB/s, 100 to 300; 0 leaves it off
	InstanceProfile  string   `yaml:"instance_profile"`
	ProtectWhileBusy bool     `yaml:"protect_while_busy"`
	Schedule         []string `yaml:"schedule"`
}

// isZero says that the author wants none.
func (f *Fleet) isZero() bool { return reflect.ValueOf(f).Elem().IsZero() }

// defaults fill a fleet that the author began; none is assumed.
func (f *Fleet) defaults(sizes []string) {
	if f.isZero() {
		return
	}
	fill(reflect.ValueOf(f).Elem(), reflect.ValueOf(Fleet{Max: max(1, f.Min, f.Desired), Sizes: slices.Clone(sizes), Image: "latest"}))
}

// fleet checks the group, if there is to be one, for the target whose sizes are given.
func (r *rules) fleet(table []Size) {
	f := r.spec.Fleet
	if f.isZero() {
		return
	}
	if f.Name == "" {
		r.bad("fleet.name", "a fleet needs a name: its resources carry it", "for example dataops-runner-singapore")
	}
	r.matches("fleet.name", f.Name, nameForm, "a name that every cloud takes", "use 2 to 80 letters, digits, dots, dashes and underscores")
	r.between("fleet.max", f.Max, 0, 1000, " machines")
	r.between("fleet.min", f.Min, 0, f.Max, ": fleet.max")
	if f.Desired != 0 {
		r.between("fleet.desired", f.Desired, f.Min, f.Max, ": fleet.min and fleet.max")
	}
	r.between("fleet.spot_share", f.SpotShare, 0, 100, " percent")
	if f.VolumeRate != 0 {
		r.between("fleet.volume_initialization_rate", f.VolumeRate, 100, 300, " MiB/s")
	}
	r.sizes("fleet.sizes", f.Sizes, table)
}
