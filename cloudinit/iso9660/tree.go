package iso9660

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// An image holds two trees over the same data: one with short names and Rock Ridge, one for Joliet.
const (
	primary = iota
	joliet
	trees
)

// node is a file or directory.
type node struct {
	name     string
	file     *File // nil for a directory
	parent   *node // the root's is itself
	children map[string]*node
	id       [trees][]byte // identifier in each tree
	at       [trees]uint32 // first sector of the directory in each tree; a file's data is at[primary]
	size     [trees]uint32 // bytes of the directory in each tree
	number   [trees]uint16 // in the path table
	sorted   [trees][]*node
}

// tree is an image laid out: every sector has its place.
type tree struct {
	label string
	root  *node
	dirs  [trees][]*node // in path table order
	files []*node        // in the order of their data
	// first sectors and sizes of the path tables
	pathAt   [trees][2]uint32
	pathSize [trees]uint32
	sectors  uint32
}

// Limits of the formats, or of what Linux, Windows and macOS read of them.
const (
	maxJoliet = 103 // UTF-16 units of a name
	maxRock   = 140 // bytes of a name, so that a directory record needs no continuation
	maxDepth  = 8   // levels of directories, the root included
)

func newTree(label string, files []File) (*tree, error) {
	if label == "" || len(label) > 16 || strings.Trim(label, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		return nil, fmt.Errorf("volume label %q: use 1 to 16 of A-Z, 0-9 and _", label)
	}
	t := &tree{label: label, root: &node{children: map[string]*node{}}}
	t.root.parent = t.root
	for i := range files {
		if err := t.add(&files[i]); err != nil {
			return nil, fmt.Errorf("%q cannot be put on the image: %w", files[i].Path, err)
		}
	}
	for k := range trees {
		if err := t.walk(k); err != nil {
			return nil, err
		}
	}
	return t, t.layout()
}

func (t *tree) add(f *File) error {
	if f.Path == "" || f.Path != path.Clean(f.Path) || path.IsAbs(f.Path) || strings.HasPrefix(f.Path, "..") || f.Path == "." {
		return fmt.Errorf("the path is not a clean relative one")
	}
	if f.Size < 0 {
		return fmt.Errorf("its size is negative")
	}
	parts := strings.Split(f.Path, "/")
	if len(parts) > maxDepth {
		return fmt.Errorf("it is deeper than %d levels", maxDepth)
	}
	at := t.root
	for i, name := range parts {
		if err := checkName(name); err != nil {
			return err
		}
		last := i == len(parts)-1
		next := at.children[name]
		switch {
		case next == nil:
			next = &node{name: name, parent: at}
			if last {
				next.file = f
			} else {
				next.children = map[string]*node{}
			}
			at.children[name] = next
		case last || next.file != nil:
			return fmt.Errorf("the path is taken by another file")
		}
		at = next
	}
	return nil
}

func checkName(name string) error {
	if !utf8.ValidString(name) {
		return fmt.Errorf("the name is not UTF-8")
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune(`*:;?\`, r) }); i >= 0 {
		return fmt.Errorf("the name holds %q, which a Joliet name cannot", name[i])
	}
	if n := len(utf16.Encode([]rune(name))); n > maxJoliet || len(name) > maxRock {
		return fmt.Errorf("the name is too long: %d characters of %d, %d bytes of %d", n, maxJoliet, len(name), maxRock)
	}
	return nil
}

// walk names and orders the nodes of one tree and numbers its directories, level by level.
func (t *tree) walk(k int) error {
	level := []*node{t.root}
	for len(level) > 0 {
		var next []*node
		for _, d := range level {
			t.dirs[k] = append(t.dirs[k], d)
			if len(t.dirs[k]) > 65535 {
				return fmt.Errorf("an image holds at most 65535 directories")
			}
			d.number[k] = uint16(len(t.dirs[k]))
			names := make([]*node, 0, len(d.children))
			for _, c := range d.children {
				names = append(names, c)
			}
			slices.SortFunc(names, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
			identify(names, k)
			slices.SortFunc(names, func(a, b *node) int { return cmp.Compare(string(a.id[k]), string(b.id[k])) })
			d.sorted[k] = names
			for _, c := range names {
				if c.file == nil {
					next = append(next, c)
				} else if k == primary {
					t.files = append(t.files, c)
				}
			}
		}
		level = next
	}
	return nil
}

// identify gives each node its identifier in a tree: UCS-2 for Joliet, else a short name that is unique in its directory.
func identify(names []*node, k int) {
	taken, count := map[string]bool{}, 0
	for _, n := range names {
		if k == joliet {
			n.id[k] = ucs2(n.name)
			if n.file != nil {
				n.id[k] = append(n.id[k], 0, ';', 0, '1')
			}
			continue
		}
		base, ext := n.name, ""
		if i := strings.LastIndexByte(n.name, '.'); i > 0 && n.file != nil {
			base, ext = n.name[:i], n.name[i+1:]
		}
		base, ext = short(base, 8), short(ext, 3)
		id := base + "." + ext
		for taken[id] {
			count++
			tail := fmt.Sprint(count)
			id = base[:min(len(base), 8-len(tail))] + tail + "." + ext
		}
		taken[id] = true
		if n.file != nil {
			n.id[k] = []byte(id + ";1")
		} else {
			n.id[k] = []byte(strings.TrimSuffix(id, "."))
		}
	}
}

// short reduces a name to the characters of ISO 9660.
func short(s string, most int) string {
	b := []byte(strings.ToUpper(s))
	for i, c := range b {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			b[i] = '_'
		}
	}
	return string(b[:min(len(b), most)])
}

func ucs2(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u>>8), byte(u))
	}
	return b
}

// layout gives every structure and file its sectors. Directory sizes do not depend on where things are.
func (t *tree) layout() error {
	next := uint64(19) // after 16 unused sectors, two volume descriptors and the terminator
	take := func(bytes int64) uint32 {
		at := next
		next += uint64(bytes+sector-1) / sector
		return uint32(at)
	}
	for k := range trees {
		t.pathSize[k] = uint32(len(t.pathTable(k, false)))
		for i := range t.pathAt[k] {
			t.pathAt[k][i] = take(int64(t.pathSize[k]))
		}
	}
	for k := range trees {
		for _, d := range t.dirs[k] {
			b := d.records(k)
			d.size[k] = uint32(len(b))
			d.at[k] = take(int64(len(b)))
		}
	}
	for _, f := range t.files {
		f.at[primary] = take(f.file.Size)
	}
	if next >= 1<<32 {
		return fmt.Errorf("the image would hold %d sectors, more than 8 TiB", next)
	}
	t.sectors = uint32(next)
	return nil
}
