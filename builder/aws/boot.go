package aws

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// The types of GPT partitions that firmware looks for, as they stand on disk.
var (
	efiSystem = []byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}
	bootable  = []byte{0x55, 0xaa} // ends a boot sector
)

// bootMode tells from a disk's partition table by which firmware it boots. Source: UEFI specification, 5.3.
func bootMode(path, arch string) (types.BootModeValues, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 34*512) // boot sector, GPT header and its 128 entries
	if _, err := f.ReadAt(head, 0); err != nil {
		return "", fmt.Errorf("the partition table cannot be read: %w", err)
	}
	if !bytes.Equal(head[510:512], bootable) {
		return "", fmt.Errorf("it has no partition table: it is not a raw disk that boots")
	}
	efi := false
	if bytes.HasPrefix(head[512:], []byte("EFI PART")) {
		size := int(binary.LittleEndian.Uint32(head[512+84:]))
		for at := 1024; size >= 128 && at+size <= len(head); at += size {
			efi = efi || bytes.Equal(head[at:at+16], efiSystem)
		}
	}
	bios := !bytes.Equal(head[:440], make([]byte, 440)) // boot code
	switch {
	case arch == "arm64" && !efi:
		return "", fmt.Errorf("it has no EFI system partition, without which arm64 does not boot")
	case arch == "arm64" || efi && !bios:
		return types.BootModeValuesUefi, nil
	case efi:
		return types.BootModeValuesUefiPreferred, nil
	}
	return types.BootModeValuesLegacyBios, nil
}
