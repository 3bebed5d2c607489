package main

import (
	"context"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/metal"
	"github.com/dorunner/dorunner-bake/images"
)

// metalTarget bakes disk images on this machine.
func metalTarget() target {
	words := func(w ...string) func() []string { return func() []string { return w } }
	return target{
		name:  "metal",
		short: "Bake a disk image on this machine",
		long: `Bake a bootable disk image on this machine, for bare metal and any hypervisor.

offline (the default on Linux as root) mounts the disk and works in it, without any machine; vm boots it in QEMU.
Prints the path of each disk image. The disk is small and grows to its machine's at first boot.`,
		example: `  dorunner-bake metal
  dorunner-bake metal --os debian-12 --docker-source distro --format qcow2,raw
  dorunner-bake metal --base my-ubuntu.img --archive dataopslive/dataops-runner=runner.tar
  dorunner-bake metal --method vm --accel tcg --cpus 2 --memory 4`,
		flags: []keyFlag{
			{name: "method", path: "metal.method", usage: "offline or vm", value: "", words: words("offline", "vm")},
			{name: "base", path: "metal.base", usage: "base disk, `FILE|URL` (default: the operating system's cloud image)", value: "", file: true},
			{name: "base-sha256", path: "metal.base_sha256", usage: "SHA-256 of the base disk; required for a URL", value: ""},
			{name: "format", path: "metal.formats", usage: "qcow2, raw or vhd; several at once", value: []string{}, words: words("qcow2", "raw", "vhd")},
			{name: "platform", path: "metal.platform", usage: "which first boot is baked in: nocloud, aws or azure", value: "", words: words("nocloud", "aws", "azure")},
			{name: "accel", path: "metal.accel", usage: "of QEMU (vm): auto, kvm or tcg", value: "", words: words("auto", "kvm", "tcg")},
			{name: "cpus", path: "metal.cpus", usage: "cores of the machine that bakes (vm)", value: 0},
			{name: "memory", path: "metal.memory_gb", usage: "memory of the machine that bakes (vm), in GB", value: 0},
			{name: "ssh-port", path: "metal.ssh_port", usage: "loopback port of the machine that bakes (vm; default: a free one)", value: 0},
			{name: "ssh-timeout", path: "metal.ssh_timeout", usage: "how long the machine that bakes may take to answer (vm), such as 10m", value: ""},
		},
		cloud: func(_ context.Context, plan *images.Plan) (builder.Cloud, error) {
			return metal.New(plan.Spec.Metal.Method), nil
		},
		pipeline: func(plan *images.Plan) pipeline {
			return pipeline{
				Boot: "dorunner-bake launch metal --wait", Sudo: `sudo -E env "PATH=$PATH" `,
				Packages: "qemu-system-x86 qemu-utils mmdebstrap extlinux syslinux-common gdisk fdisk e2fsprogs zerofree",
				Values:   []packerValue{{"formats", "Formats of the disk image.", plan.Spec.Metal.Formats}, {"platform", "Which first boot is baked in.", plan.Spec.Metal.Platform}},
			}
		},
	}
}
