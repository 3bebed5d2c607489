package metal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// sector is the logical block size of every disk here.
const sector = 512

// alignment is what partitions end on: a file system is a whole number of blocks.
const alignment = 1 << 20

// partition is one entry of a disk's table, in bytes.
type partition struct {
	index       int // from 0
	start, size int64
}

// table is a GPT (UEFI specification 2.10, chapter 5) or, where there is none, the four primary partitions of an MBR.
type table struct {
	gpt        bool
	header     [sector]byte // of the GPT
	entries    []byte       // of the GPT
	entrySize  int
	partitions []partition
}

var errNoTable = errors.New("the disk has no partition table: give a whole disk with an operating system, not a file system")

// readTable reads the partition table of a raw disk.
func readTable(disk io.ReaderAt) (*table, error) {
	var mbr [sector]byte
	if _, err := disk.ReadAt(mbr[:], 0); err != nil {
		return nil, fmt.Errorf("reading the partition table: %w", err)
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return nil, errNoTable
	}
	t := &table{}
	if _, err := disk.ReadAt(t.header[:], sector); err == nil && string(t.header[:8]) == "EFI PART" {
		return t, t.readGPT(disk)
	}
	for i := range 4 {
		e := mbr[446+16*i : 462+16*i]
		if size := binary.LittleEndian.Uint32(e[12:]); e[4] != 0 && size != 0 {
			t.partitions = append(t.partitions, partition{i, int64(binary.LittleEndian.Uint32(e[8:])) * sector, int64(size) * sector})
		}
	}
	if len(t.partitions) == 0 {
		return nil, errNoTable
	}
	return t, nil
}

func (t *table) readGPT(disk io.ReaderAt) error {
	t.gpt = true
	count := binary.LittleEndian.Uint32(t.header[80:])
	t.entrySize = int(binary.LittleEndian.Uint32(t.header[84:]))
	if t.entrySize < 128 || t.entrySize > 4096 || count == 0 || count > 1024 {
		return fmt.Errorf("the partition table is damaged: %d entries of %d bytes", count, t.entrySize)
	}
	t.entries = make([]byte, int(count)*t.entrySize)
	at := int64(binary.LittleEndian.Uint64(t.header[72:])) * sector
	if _, err := disk.ReadAt(t.entries, at); err != nil {
		return fmt.Errorf("reading the partition table: %w", err)
	}
	if crc32.ChecksumIEEE(t.entries) != binary.LittleEndian.Uint32(t.header[88:]) {
		return errors.New("the partition table is damaged: its checksum is wrong")
	}
	for i := range int(count) {
		e := t.entries[i*t.entrySize:]
		first, last := int64(binary.LittleEndian.Uint64(e[32:])), int64(binary.LittleEndian.Uint64(e[40:]))
		if !bytes.Equal(e[:16], make([]byte, 16)) && last >= first {
			t.partitions = append(t.partitions, partition{i, first * sector, (last - first + 1) * sector})
		}
	}
	return nil
}

// grow moves the end of partition p to the end of a disk of diskSize bytes, if nothing lies behind it, and gives the
// partition as it is then.
func (t *table) grow(disk *os.File, p partition, diskSize int64) (partition, error) {
	for _, other := range t.partitions {
		if other.start > p.start {
			return p, nil
		}
	}
	if !t.gpt {
		p.size = diskSize/alignment*alignment - p.start
		size := binary.LittleEndian.AppendUint32(nil, uint32(min(p.size/sector, 1<<32-1)))
		_, err := disk.WriteAt(size, 446+16*int64(p.index)+12)
		return p, err
	}
	end := (lastUsable(diskSize, len(t.entries)) + 1) * sector / alignment * alignment
	p.size = end - p.start
	last := end/sector - 1
	binary.LittleEndian.PutUint64(t.entries[p.index*t.entrySize+40:], uint64(last))
	return p, t.write(disk, diskSize)
}

// lastUsable is the last sector for partitions: behind it lie the spare table and the spare header.
func lastUsable(diskSize int64, entries int) int64 {
	return diskSize/sector - 2 - int64((entries+sector-1)/sector)
}

// write puts both copies of a GPT on a disk of diskSize bytes.
func (t *table) write(disk io.WriterAt, diskSize int64) error {
	end := diskSize/sector - 1
	last := lastUsable(diskSize, len(t.entries))
	for _, c := range []struct{ header, other, entries int64 }{{1, end, 2}, {end, 1, last + 1}} {
		h := t.header
		le := binary.LittleEndian
		le.PutUint64(h[24:], uint64(c.header))
		le.PutUint64(h[32:], uint64(c.other))
		le.PutUint64(h[48:], uint64(last))
		le.PutUint64(h[72:], uint64(c.entries))
		le.PutUint32(h[88:], crc32.ChecksumIEEE(t.entries))
		le.PutUint32(h[16:], 0)
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:le.Uint32(h[12:])]))
		if _, err := disk.WriteAt(t.entries, c.entries*sector); err != nil {
			return fmt.Errorf("writing the partition table: %w", err)
		}
		if _, err := disk.WriteAt(h[:], c.header*sector); err != nil {
			return fmt.Errorf("writing the partition table: %w", err)
		}
	}
	return nil
}

// newTable is the GPT of a disk with one bootable Linux partition from start to the end; ids are the disk's and the
// partition's GUIDs.
func newTable(start, diskSize int64, ids [2][16]byte) *table {
	const entries, entrySize = 128, 128
	t := &table{gpt: true, entries: make([]byte, entries*entrySize), entrySize: entrySize}
	le := binary.LittleEndian
	copy(t.header[:], "EFI PART\x00\x00\x01\x00")
	le.PutUint32(t.header[12:], 92)
	le.PutUint64(t.header[40:], 2+entries*entrySize/sector)
	copy(t.header[56:], ids[0][:])
	le.PutUint32(t.header[80:], entries)
	le.PutUint32(t.header[84:], entrySize)

	e := t.entries
	// 0FC63DAF-8483-4772-8E79-3D69D8477DE4, a Linux file system.
	copy(e, []byte{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4})
	copy(e[16:], ids[1][:])
	end := (lastUsable(diskSize, len(t.entries)) + 1) * sector / alignment * alignment
	le.PutUint64(e[32:], uint64(start/sector))
	le.PutUint64(e[40:], uint64(end/sector-1))
	le.PutUint64(e[48:], 1<<2) // LegacyBIOSBootable: gptmbr.bin looks for it
	for i, c := range "root" {
		le.PutUint16(e[56+2*i:], uint16(c))
	}
	t.partitions = []partition{{0, start, end - start}}
	return t
}

// protectiveMBR is the first sector of a GPT disk, with boot code for machines without UEFI.
func protectiveMBR(bootCode []byte, diskSize int64) ([]byte, error) {
	if len(bootCode) > 440 {
		return nil, fmt.Errorf("the boot code is %d bytes long, and 440 have room", len(bootCode))
	}
	mbr := make([]byte, sector)
	copy(mbr, bootCode)
	copy(mbr[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0})
	binary.LittleEndian.PutUint32(mbr[458:], uint32(min(diskSize/sector-1, 1<<32-1)))
	mbr[510], mbr[511] = 0x55, 0xaa
	return mbr, nil
}
