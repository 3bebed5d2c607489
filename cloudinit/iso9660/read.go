package iso9660

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// Image is what Linux shows of an image's root directory: Rock Ridge names where there are some, else Joliet's, else
// the short ones.
type Image struct {
	Label string
	Names string // "Rock Ridge", "Joliet", or "" for short names alone
	Root  []Entry
	r     io.ReaderAt
}

// Entry is one name in the root directory.
type Entry struct {
	Name    string
	Dir     bool
	Size    int64
	extents [][2]int64 // offset, bytes
}

// maxDirectory is how much of a root directory is read.
const maxDirectory = 4 << 20

// IsImage says that data, the first 34 KiB of a file or more, begins as an image does.
func IsImage(data []byte) bool {
	return len(data) > 17*sector && string(data[16*sector+1:16*sector+6]) == "CD001"
}

// Read reads the label and the root directory of an image; of any bytes at all it says at least what is wrong.
func Read(r io.ReaderAt) (*Image, error) {
	i := &Image{r: r}
	var roots [trees][]byte
	for at := int64(16); at < 16+64; at++ {
		d, err := i.bytes(at*sector, sector)
		if err != nil || string(d[1:6]) != "CD001" {
			return nil, errors.New("it is no ISO 9660 image, or it is cut")
		}
		if d[0] == 255 {
			break
		}
		switch {
		case d[0] == 1 && roots[primary] == nil:
			roots[primary], i.Label = d[156:190], strings.TrimRight(string(d[40:72]), " \x00")
		case d[0] == 2 && d[88] == '%' && d[89] == '/' && strings.ContainsRune("@CE", rune(d[90])):
			roots[joliet] = d[156:190]
		}
	}
	if roots[primary] == nil {
		return nil, errors.New("the image has no primary volume descriptor")
	}
	entries, rock, err := i.directory(roots[primary], primary)
	if err != nil {
		return nil, err
	}
	switch {
	case rock:
		i.Names = "Rock Ridge"
	case roots[joliet] != nil:
		i.Names = "Joliet"
		if entries, _, err = i.directory(roots[joliet], joliet); err != nil {
			return nil, err
		}
	}
	i.Root = entries
	return i, nil
}

// ReadFile is the content of a file of the root directory, of at most so many bytes.
func (i *Image) ReadFile(e Entry, most int64) ([]byte, error) {
	if e.Size > most {
		return nil, fmt.Errorf("%s: has %d bytes, more than the %d that are read", e.Name, e.Size, most)
	}
	var out []byte
	for _, x := range e.extents {
		b, err := i.bytes(x[0], x[1])
		if err != nil {
			return nil, fmt.Errorf("%s: the image is cut", e.Name)
		}
		out = append(out, b...)
	}
	return out, nil
}

func (i *Image) bytes(at, n int64) ([]byte, error) {
	b := make([]byte, n)
	if got, err := i.r.ReadAt(b, at); int64(got) < n {
		return nil, err
	}
	return b, nil
}

// directory lists what stands in a directory; rock says that its names are Rock Ridge's.
func (i *Image) directory(self []byte, k int) (out []Entry, rock bool, err error) {
	size := int64(le.Uint32(self[10:]))
	if size > maxDirectory {
		return nil, false, fmt.Errorf("the root directory has %d bytes", size)
	}
	b, err := i.bytes(int64(le.Uint32(self[2:]))*sector, size)
	if err != nil {
		return nil, false, errors.New("the image is cut in its root directory")
	}
	skip, more := 0, false
	for off := 0; off < len(b); {
		n := int(b[off])
		if n == 0 { // the rest of the sector is empty
			off += sector - off%sector
			continue
		}
		if n < 34 || off+n > len(b) || 33+int(b[off+32]) > n {
			return nil, false, errors.New("the root directory is damaged")
		}
		d := b[off : off+n]
		off += n
		id := d[33 : 33+int(d[32])]
		area := d[min(len(d), 33+len(id)+1-len(id)&1):]
		if len(id) == 1 && id[0] <= 1 {
			if id[0] == 0 && k == primary && len(area) >= 7 && string(area[:2]) == "SP" {
				rock, skip = true, int(area[6])
			}
			continue
		}
		x := [2]int64{int64(le.Uint32(d[2:])) * sector, int64(le.Uint32(d[10:]))}
		if more { // the next extent of the file before
			last := &out[len(out)-1]
			last.Size, last.extents = last.Size+x[1], append(last.extents, x)
		} else {
			e := Entry{Dir: d[25]&2 != 0, Size: x[1], extents: [][2]int64{x}}
			switch {
			case k == joliet:
				e.Name, _, _ = strings.Cut(fromUCS2(id), ";")
			case rock:
				e.Name = i.rockName(area[min(len(area), skip):])
			}
			if e.Name == "" {
				e.Name = string(id)
			}
			out = append(out, e)
		}
		more = d[25]&0x80 != 0
	}
	return out, rock, nil
}

// rockName is the name in a record's system use area, which may go on elsewhere.
func (i *Image) rockName(area []byte) string {
	var name strings.Builder
	for areas := 0; areas < 8; areas++ {
		var next []byte
		for len(area) >= 4 && int(area[2]) >= 4 && int(area[2]) <= len(area) {
			f := area[:area[2]]
			area = area[area[2]:]
			switch {
			case string(f[:2]) == "NM" && len(f) >= 5:
				name.Write(f[5:])
			case string(f[:2]) == "CE" && len(f) >= 28:
				next, _ = i.bytes(int64(le.Uint32(f[4:]))*sector+int64(le.Uint32(f[12:])), int64(min(le.Uint32(f[20:]), sector)))
			}
		}
		if next == nil {
			break
		}
		area = next
	}
	return name.String()
}

func fromUCS2(b []byte) string {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		u = append(u, be.Uint16(b))
	}
	return string(utf16.Decode(u))
}
