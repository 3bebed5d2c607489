//go:build linux

package metal

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openLoop gives a partition of a raw disk as a block device, for as long as the file is open: the kernel then
// clears the device, also when this process is killed. (resize2fs takes an offset into a file as well, but then cuts
// the file off at the length of its file system.)
func openLoop(disk string, p partition) (device *os.File, err error) {
	back, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("this machine has no loop devices: %w; modprobe loop, or use --method vm", err)
	}
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("looking for a free loop device: %w", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &unix.LoopConfig{Fd: uint32(back.Fd()),
			Info: unix.LoopInfo64{Offset: uint64(p.start), Sizelimit: uint64(p.size), Flags: unix.LO_FLAGS_AUTOCLEAR}})
		if err == nil {
			return device, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) { // another program was faster: try the next
			return nil, fmt.Errorf("attaching %s to %s: %w", disk, device.Name(), err)
		}
	}
}
