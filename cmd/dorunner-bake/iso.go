package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/cloudinit/iso9660"
	"github.com/dorunner/dorunner-bake/images"
)

// isoFlags are what `iso` is told beside the spec.
type isoFlags struct {
	out, hosts, network string
	shared              bool
	merge, keys         []string
	offline             bool
	packages, firstBoot string
	autoinstall         bool
	install             cloudinit.Install
	remaster            string
	allowPlain          bool
}

// isoCmd writes seed media for bare metal.
func isoCmd(a *app) *cobra.Command {
	var o isoFlags
	cmd := &cobra.Command{
		Use:   "iso",
		Short: "Write seed media for bare metal: who a machine is, or all that it needs",
		Long: `Write an ISO that a machine finds by its label, CIDATA, on a CD drive, a USB stick or a virtual disk.

By default it tells one baked machine who it is. --hosts writes one for each machine of a list, or with --shared one for
all, which tells machines apart by SMBIOS serial number or MAC address. --offline carries Docker's packages, the spec's
image archives and first boot as well, for a stock system without any network but the GitLab address. --autoinstall
installs Ubuntu server first, without a question, as a seed beside the installer or, with --remaster, as one bootable
image; it wipes the one disk that --disk names and no other.`,
		Example: `  dorunner-bake iso --name runner-1 --url https://app.dataops.live --token file:/etc/dorunner/token
  dorunner-bake iso --hosts hosts.yaml -o seeds/
  dorunner-bake iso --hosts hosts.yaml --shared -o all.iso
  dorunner-bake iso --offline --packages debs/ -o offline.iso
  dorunner-bake iso --autoinstall --disk size=480GB --ssh-key ~/.ssh/id_ed25519.pub --packages debs/ --remaster ubuntu-24.04-live-server-amd64.iso -o install.iso`,
		Args: cobra.NoArgs,
	}
	flags := append(runnerFlags("name", "tag", "ssm:/dorunner/token"), readerFlag)
	addFlags(cmd, flags)
	a.specFlags(cmd.Flags())
	f := cmd.Flags()
	f.StringVarP(&o.out, "output", "o", "seed.iso", "`FILE` to write; with --hosts a directory")
	f.StringVar(&o.hosts, "hosts", "", "list of machines, `FILE`: name, mac, serial, addresses, gateway, dns, search, tags, token of each")
	f.BoolVar(&o.shared, "shared", false, "with --hosts: one ISO for all of them")
	f.StringVar(&o.network, "network-config", "", "network configuration to put on the seed, `FILE`")
	f.StringArrayVar(&o.merge, "merge", nil, "user-data of your own to carry as well, `FILE`; several times")
	f.BoolVar(&o.allowPlain, "allow-plain-secrets", false, "write secrets that the spec or the list of machines holds literally")
	f.BoolVar(&o.offline, "offline", false, "carry first boot, Docker's packages and the spec's image archives as well")
	f.StringVar(&o.packages, "packages", "", "`DIR` with Docker's packages and what they depend on, for the machine's release")
	f.StringVar(&o.firstBoot, "firstboot", "", "the dorunner-firstboot program (default: the one beside this program)")
	f.BoolVar(&o.autoinstall, "autoinstall", false, "install Ubuntu server first, without a question")
	f.StringVar(&o.install.Disk, "disk", "", "the disk that may be wiped: serial=S, model=M, path=/dev/sda, size=480GB, smallest or largest")
	f.StringVar(&o.install.Layout, "layout", "lvm", "lvm or direct")
	f.StringVar(&o.install.Username, "user", "", "first user of the installed system (default: the spec's admin user)")
	f.StringVar(&o.install.PasswordHash, "password-hash", "", "the user's password, as openssl passwd -6 prints it")
	f.StringArrayVar(&o.keys, "ssh-key", nil, "the user's public SSH key, `FILE`; several times")
	f.StringVar(&o.remaster, "remaster", "", "Ubuntu's live server image, `FILE`: write it anew as one image that boots and installs")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return usageError{err}
		}
		over, err := overrides(cmd.Flags(), flags)
		if err != nil {
			return err
		}
		// A machine of a list has its name and perhaps its token from there; what is missing is said for each.
		plan, err := a.runnerPlan(over, o.hosts == "")
		if err != nil {
			return err
		}
		made, err := a.makeISO(cmd.Context(), plan, o)
		if err != nil {
			return err
		}
		for _, file := range made {
			_, _ = fmt.Fprintln(a.out, file)
		}
		_, _ = fmt.Fprintf(a.err, "for a USB stick, whose device lsblk shows: sudo dd if=%s of=/dev/sdX bs=4M conv=fsync status=progress\n", made[0])
		return nil
	}
	return cmd
}

// check refuses flags that do not go together.
func (o *isoFlags) check() error {
	var errs []error
	no := func(bad bool, text string) {
		if bad {
			errs = append(errs, errors.New(text))
		}
	}
	no(o.shared && o.hosts == "", "--shared needs --hosts")
	no(o.network != "" && o.hosts != "", "--network-config does not go with --hosts, which has the machines' addresses")
	no(o.autoinstall && o.hosts != "", "--autoinstall installs one machine: not with --hosts")
	no(o.autoinstall && len(o.merge) > 0, "--autoinstall writes the installer's user-data: not with --merge")
	no(o.remaster != "" && !o.autoinstall, "--remaster needs --autoinstall")
	no(o.packages != "" && !o.offline && !o.autoinstall, "--packages needs --offline or --autoinstall")
	if o.autoinstall {
		_, _, err := cloudinit.ParseDisk(o.install.Disk)
		if err != nil {
			err = fmt.Errorf("--disk: %w", err)
		}
		errs = append(errs, err)
	}
	if o.offline && !o.autoinstall && o.packages == "" {
		errs = append(errs, errors.New("--offline needs --packages DIR: fill it on a machine of the same release with apt-get download docker-ce docker-ce-cli containerd.io and what they depend on"))
	}
	return errors.Join(errs...)
}

// makeISO writes what was asked for and names the files.
func (a *app) makeISO(ctx context.Context, plan *images.Plan, o isoFlags) ([]string, error) {
	gen := cloudinit.Options{Cloud: "metal", CloudInit: plan.Base.CloudInit, AllowPlain: o.allowPlain}
	var err error
	if gen.Sources, err = a.sources(o.merge, gen); err != nil {
		return nil, err
	}
	var payload []iso9660.File
	if o.offline || o.autoinstall {
		if payload, err = o.payload(plan); err != nil {
			return nil, err
		}
	}
	switch {
	case o.autoinstall:
		return a.installer(ctx, plan, o, gen, payload)
	case o.offline:
		script, err := cloudinit.OfflineScript()
		if err != nil {
			return nil, err
		}
		gen.Sources = append(gen.Sources, script)
	}
	if o.hosts != "" {
		return a.hostSeeds(plan, o, gen, payload)
	}
	var network []byte
	if o.network != "" {
		if network, err = a.judged(o.network, "network-config"); err != nil {
			return nil, err
		}
	}
	seed, err := cloudinit.Seed(plan.Runner(), network, gen)
	if err != nil {
		return nil, usageError{err}
	}
	return []string{o.out}, cloudinit.WriteISO(o.out, cloudinit.SeedLabel, append(seed, payload...))
}

// hostSeeds writes the seeds of a list of machines: everything is made before the first file is written.
func (a *app) hostSeeds(plan *images.Plan, o isoFlags, gen cloudinit.Options, payload []iso9660.File) ([]string, error) {
	data, err := os.ReadFile(o.hosts)
	if err != nil {
		return nil, usageError{err}
	}
	hosts, err := cloudinit.ReadHosts(o.hosts, data)
	if err != nil {
		return nil, a.shown(err)
	}
	if o.shared {
		files, err := cloudinit.SharedSeed(plan.Runner(), hosts, gen)
		if err != nil {
			return nil, usageError{err}
		}
		return []string{o.out}, cloudinit.WriteISO(o.out, cloudinit.SeedLabel, append(files, payload...))
	}
	seeds, err := cloudinit.HostSeeds(plan.Runner(), hosts, gen)
	if err != nil {
		return nil, usageError{err}
	}
	var made []string
	for _, h := range hosts {
		made = append(made, filepath.Join(strings.TrimSuffix(o.out, ".iso"), h.Name+".iso"))
	}
	return made, cloudinit.WriteSeeds(made, seeds, payload)
}

// payload is what a stock system lacks.
func (o *isoFlags) payload(plan *images.Plan) ([]iso9660.File, error) {
	p := cloudinit.Payload{FirstBoot: o.firstBoot, Defaults: plan.BakedRunner(), Packages: o.packages, Arch: plan.Spec.Image.Arch}
	if p.FirstBoot == "" {
		var err error
		if p.FirstBoot, err = builder.FindFirstBoot(p.Arch); err != nil {
			return nil, err
		}
	}
	for _, c := range plan.Containers {
		if c.Archive == "" {
			if o.offline {
				return nil, usageError{fmt.Errorf("%s: without a network it cannot be pulled: name a docker-archive of it in the spec, image.pull: [{ref: %s, archive: FILE}]", c.Ref, c.Ref)}
			}
			continue
		}
		if !slices.ContainsFunc(p.Images, func(a cloudinit.Archive) bool { return a.File == c.Archive }) { // one file may hold both
			p.Images = append(p.Images, cloudinit.Archive{Ref: c.Ref, File: c.Archive})
		}
	}
	return p.Files()
}

// installer writes an unattended installation, as a seed beside the installer or as a bootable image.
func (a *app) installer(ctx context.Context, plan *images.Plan, o isoFlags, gen cloudinit.Options, payload []iso9660.File) ([]string, error) {
	i := o.install
	i.Hostname, i.Docker = plan.Runner().Name, o.packages == ""
	if i.Username == "" {
		i.Username = plan.Spec.Image.AdminUser
	}
	for _, file := range o.keys {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, usageError{err}
		}
		i.Keys = append(i.Keys, strings.TrimSpace(string(b)))
	}
	if o.remaster != "" {
		i.Media = "/cdrom"
	}
	userData, err := i.Autoinstall(plan.Runner(), gen)
	if err != nil {
		return nil, usageError{err}
	}
	var network []byte
	if o.network != "" {
		if network, err = a.judged(o.network, "network-config"); err != nil {
			return nil, err
		}
	}
	seed, err := cloudinit.SeedFiles(cloudinit.HostMeta(i.Hostname, userData, network), userData, network)
	if err != nil {
		return nil, err
	}
	if o.remaster != "" {
		return []string{o.out}, cloudinit.Remaster(ctx, o.remaster, o.out, seed, payload)
	}
	return []string{o.out}, cloudinit.WriteISO(o.out, cloudinit.SeedLabel, append(seed, payload...))
}
