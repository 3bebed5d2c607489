package iso9660

import (
	"encoding/binary"
	"io"
	"strings"
)

var le, be = binary.LittleEndian, binary.BigEndian

// both16 and both32 are numbers in both byte orders, as most of ISO 9660's are (ECMA-119 7.2.3, 7.3.3).
func both16(b []byte, v uint16) []byte { return be.AppendUint16(le.AppendUint16(b, v), v) }
func both32(b []byte, v uint32) []byte { return be.AppendUint32(le.AppendUint32(b, v), v) }

// writeHead writes everything before the files' data.
func (t *tree) writeHead(w io.Writer) error {
	zero := make([]byte, sector)
	for range 16 {
		if _, err := w.Write(zero); err != nil {
			return err
		}
	}
	terminator := append([]byte{255}, "CD001\x01"...)
	parts := [][]byte{t.descriptor(primary), t.descriptor(joliet), terminator}
	for k := range trees {
		parts = append(parts, t.pathTable(k, false), t.pathTable(k, true))
	}
	for k := range trees {
		for _, d := range t.dirs[k] {
			parts = append(parts, d.records(k))
		}
	}
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			return err
		}
		if _, err := w.Write(zero[:-len(p)&(sector-1)]); err != nil {
			return err
		}
	}
	return nil
}

// descriptor is a primary or supplementary volume descriptor (ECMA-119 8.4, 8.5).
func (t *tree) descriptor(k int) []byte {
	text := func(s string, width int) []byte {
		if k == joliet {
			return append(ucs2(s), []byte(strings.Repeat("\x00 ", width))...)[:width]
		}
		return append([]byte(s), strings.Repeat(" ", width)...)[:width]
	}
	b := append([]byte{byte(k + 1)}, "CD001\x01\x00"...)
	b = append(b, text("", 32)...)
	b = append(b, text(t.label, 32)...)
	b = append(b, make([]byte, 8)...)
	b = both32(b, t.sectors)
	escape := make([]byte, 32)
	if k == joliet {
		copy(escape, "%/E") // UCS-2 level 3
	}
	b = append(b, escape...)
	b = both16(b, 1) // volumes in the set
	b = both16(b, 1) // number of this one
	b = both16(b, sector)
	b = both32(b, t.pathSize[k])
	b = le.AppendUint32(b, t.pathAt[k][0])
	b = le.AppendUint32(b, 0)
	b = be.AppendUint32(b, t.pathAt[k][1])
	b = be.AppendUint32(b, 0)
	b = append(b, record([]byte{0}, true, t.root.at[k], t.root.size[k], 0, nil)...)
	for _, width := range []int{128, 128, 128, 128, 37, 37, 37} { // set, publisher, preparer, application, files
		b = append(b, text("", width)...)
	}
	stamp := Stamp.Format("20060102150405") + "00\x00"
	never := strings.Repeat("0", 16) + "\x00"
	b = append(b, stamp+stamp+never+stamp...)
	return append(b, 1) // version of the structure
}

// pathTable lists the directories of a tree (ECMA-119 9.4), for readers that look directories up without walking.
func (t *tree) pathTable(k int, big bool) []byte {
	var b []byte
	for _, d := range t.dirs[k] {
		id := d.id[k]
		if d == t.root {
			id = []byte{0}
		}
		b = append(b, byte(len(id)), 0)
		if big {
			b = be.AppendUint32(b, d.at[k])
			b = be.AppendUint16(b, d.parent.number[k])
		} else {
			b = le.AppendUint32(b, d.at[k])
			b = le.AppendUint16(b, d.parent.number[k])
		}
		b = append(b, id...)
		b = append(b, make([]byte, len(id)&1)...)
	}
	return b
}

// records is the content of a directory in a tree. No record crosses a sector's end.
func (d *node) records(k int) []byte {
	var b []byte
	add := func(r []byte) {
		if left := sector - len(b)%sector; len(r) > left {
			b = append(b, make([]byte, left)...)
		}
		b = append(b, r...)
	}
	rock := func(n *node, name string) []byte {
		if k == joliet {
			return nil
		}
		return rockRidge(n, name)
	}
	add(record([]byte{0}, true, d.at[k], d.size[k], 0, rock(d, ".")))
	add(record([]byte{1}, true, d.parent.at[k], d.parent.size[k], 0, rock(d.parent, "..")))
	for _, c := range d.sorted[k] {
		if c.file == nil {
			add(record(c.id[k], true, c.at[k], c.size[k], 0, rock(c, c.name)))
			continue
		}
		// A file over 4 GiB has one record per extent; all but the last say that more follows.
		at, left := c.at[primary], c.file.Size
		for ; left > maxExtent; left -= maxExtent {
			add(record(c.id[k], false, at, maxExtent, 0x80, rock(c, c.name)))
			at += maxExtent / sector
		}
		add(record(c.id[k], false, at, uint32(left), 0, rock(c, c.name)))
	}
	return append(b, make([]byte, -len(b)&(sector-1))...)
}

// record is one directory record (ECMA-119 9.1).
func record(id []byte, dir bool, at, size uint32, flags byte, rock []byte) []byte {
	if dir {
		flags |= 2
	}
	b := both32([]byte{0, 0}, at)
	b = both32(b, size)
	b = append(b, byte(Stamp.Year()-1900), byte(Stamp.Month()), byte(Stamp.Day()), 0, 0, 0, 0, flags, 0, 0)
	b = both16(b, 1)
	b = append(b, byte(len(id)))
	b = append(b, id...)
	b = append(b, make([]byte, len(b)&1)...)
	b = append(b, rock...)
	b = append(b, make([]byte, len(b)&1)...)
	b[0] = byte(len(b))
	return b
}

// rockRidge is the system use area of a record: POSIX attributes and the real name (RRIP 1.09, SUSP 1.09).
func rockRidge(n *node, name string) []byte {
	var b []byte
	first := name == "." && n.parent == n
	if first {
		b = append(b, "SP\x07\x01\xbe\xef\x00"...)
	}
	mode, links := uint32(0o040555), uint32(2)
	if n.file != nil {
		mode, links = 0o100444, 1
		if p := uint32(n.file.Mode.Perm()); p != 0 {
			mode = 0o100000 | p
		}
	} else {
		for _, c := range n.children {
			if c.file == nil {
				links++
			}
		}
	}
	b = append(b, "PX\x24\x01"...)
	for _, v := range []uint32{mode, links, 0, 0} { // owner and group are root
		b = both32(b, v)
	}
	switch {
	case first:
		id, about := "RRIP_1991A", "POSIX file names and attributes"
		b = append(b, 'E', 'R', byte(8+len(id)+2*len(about)), 1, byte(len(id)), byte(len(about)), byte(len(about)), 1)
		b = append(b, id+about+about...)
	case name != "." && name != "..":
		b = append(b, 'N', 'M', byte(5+len(name)), 1, 0)
		b = append(b, name...)
	}
	return b
}
