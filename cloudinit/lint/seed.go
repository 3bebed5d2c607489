package lint

import (
	"fmt"
	"slices"
	"strings"
)

// seedFiles are what cloud-init's NoCloud reads, and whether it must be there.
var seedFiles = map[string]bool{"user-data": true, "meta-data": true, "network-config": false, "vendor-data": false}

// SeedFiles names them in the order in which they are judged.
func SeedFiles() []string { return sortedKeys(seedFiles) }

// Seed judges what makes a volume a seed at all: its label and the names in its root. cloud-init passes over any other
// without a word. The label is "" where it is not known.
func Seed(label string, names []string) []Finding {
	var out []Finding
	say := func(warning bool, hint, format string, args ...any) {
		out = append(out, Finding{Rule: "seed", Warning: warning, Line: 1, Col: 1, InLine: 1, InCol: 1, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	if label != "" && label != "cidata" && label != "CIDATA" {
		say(false, "label it CIDATA", "the volume is labelled %s: cloud-init looks for cidata or CIDATA, exactly, and passes over it", label)
	}
	for _, name := range SeedFiles() {
		if slices.Contains(names, name) {
			continue
		}
		near := ""
		for _, n := range names {
			plain := strings.ToLower(n)
			plain, _, _ = strings.Cut(plain, ";")
			plain = strings.TrimSuffix(plain, ".")
			for _, ext := range []string{".yaml", ".yml", ".txt", ".cfg", ".json"} {
				plain = strings.TrimSuffix(plain, ext)
			}
			plain = strings.ReplaceAll(plain, "_", "-")
			if _, known := seedFiles[n]; !known && (plain == name || len(plain) == 8 && strings.HasPrefix(name, plain) || strings.EqualFold(suggest(plain, []string{name}), name)) {
				near = n
			}
		}
		switch {
		case seedFiles[name] && near != "":
			say(false, "name it "+name, "there is no %s, and cloud-init passes over the seed without it; %s is another name", name, near)
		case seedFiles[name]:
			say(false, "add one, even an empty user-data", "there is no %s, and cloud-init passes over the seed without it", name)
		case near != "":
			say(true, "name it "+name, "%s is not read: cloud-init knows %s", near, name)
		}
	}
	return out
}
