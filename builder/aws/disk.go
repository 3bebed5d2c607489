package aws

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/dorunner/dorunner-bake/builder"
)

// disk is a disk of the metal target, published as an AMI without any machine.
type disk struct {
	file     string
	manifest *builder.Manifest
	err      error        // why it cannot be published
	resume   *uploadState // an upload of this very disk that was killed
}

// rootDevice is the name that an image of a disk gives it, as Ubuntu's do.
const rootDevice = "/dev/sda1"

// openDisk finds the disk and what the bake that made it wrote beside it.
func openDisk(file string) *disk {
	d := &disk{file: file}
	fail := func(format string, args ...any) *disk {
		d.err = fmt.Errorf(format, args...)
		return d
	}
	if _, err := os.Stat(file); err != nil {
		return fail("disk: %w", err)
	}
	beside := filepath.Join(filepath.Dir(file), "manifest.json")
	data, err := os.ReadFile(beside)
	if errors.Is(err, fs.ErrNotExist) {
		return fail("disk %s has no manifest.json beside it, which says what is in it: bake it with `dorunner-bake metal --platform aws`", file)
	}
	if err == nil {
		err = json.Unmarshal(data, &d.manifest)
	}
	if err != nil {
		return fail("%s: %w", beside, err)
	}
	if d.manifest.Sizes == nil {
		d.manifest.Sizes = map[string]int64{}
	}
	if d.manifest.Platform != "aws" {
		return fail("disk %s was baked for %s and would not find its way on EC2: bake it with `dorunner-bake metal --platform aws`", file, d.manifest.Platform)
	}
	return d
}

// hash tells images of one disk from those of another, though baked from the same plan.
func (d *disk) hash() string {
	sum := sha256.Sum256([]byte(d.manifest.PlanHash + "\n" + d.manifest.BakeID))
	return hex.EncodeToString(sum[:])
}

// BakedElsewhere is the manifest of the disk that is published, if that is what is done.
func (c *Cloud) BakedElsewhere() (*builder.Manifest, bool) {
	if c.disk == nil {
		return nil, false
	}
	return c.disk.manifest, true
}

// checkDisk is the part of the preflight that a disk needs.
func (c *Cloud) checkDisk(ctx context.Context, env *builder.Env) error {
	c.root = rootDevice
	if key := KeyIn(c.region, env.Plan.Spec.AWS.KMSKey); key != "" && !strings.Contains(key, ":key/") {
		return fmt.Errorf("the EBS direct APIs take a key by its ARN only, not as %s: write aws.kms_key as arn:aws:kms:%s:ACCOUNT:key/ID (and after a comma the alias that other regions have)", key, c.region)
	}
	raw, err := c.rawDisk(ctx, env)
	if err != nil {
		return err
	}
	if raw.gib > env.Plan.Spec.Image.DiskGB {
		return fmt.Errorf("disk %s has %d GB, more than image.disk_gb %d: give --disk %d", c.disk.file, raw.gib, env.Plan.Spec.Image.DiskGB, raw.gib)
	}
	return nil
}

// raw is a disk as EBS takes it.
type raw struct {
	path  string
	size  int64 // bytes
	gib   int   // GiB, rounded up
	mtime time.Time
}

// rawDisk gives the disk in raw form, made of a qcow2 when it is one.
func (c *Cloud) rawDisk(ctx context.Context, env *builder.Env) (raw, error) {
	path := c.disk.file
	st, err := os.Stat(path)
	if err != nil {
		return raw{}, fmt.Errorf("disk: %w", err)
	}
	mtime := st.ModTime()
	if strings.HasSuffix(path, ".qcow2") {
		path = filepath.Join(env.WorkDir, "disk.raw")
		if _, err := os.Stat(path); err != nil {
			if out, err := exec.CommandContext(ctx, "qemu-img", "convert", "-O", "raw", c.disk.file, path).CombinedOutput(); err != nil {
				return raw{}, fmt.Errorf("qemu-img convert %s: %w: %s", c.disk.file, err, strings.TrimSpace(string(out)))
			}
		}
		if st, err = os.Stat(path); err != nil {
			return raw{}, fmt.Errorf("disk: %w", err)
		}
	}
	return raw{path, st.Size(), int((st.Size() + 1<<30 - 1) >> 30), mtime}, nil
}

// publish uploads the disk as a snapshot and makes an image of it.
func (c *Cloud) publish(ctx context.Context, env *builder.Env) (builder.Artifact, error) {
	if err := c.begin(env, c.region); err != nil {
		return builder.Artifact{}, err
	}
	raw, err := c.rawDisk(ctx, env)
	if err != nil {
		return builder.Artifact{}, err
	}
	boot, err := bootMode(raw.path, env.Plan.Spec.Image.Arch)
	if err != nil {
		return builder.Artifact{}, fmt.Errorf("disk %s: %w", c.disk.file, err)
	}
	snapshot, err := c.upload(ctx, env, raw)
	if err != nil {
		return builder.Artifact{}, err
	}
	if err := c.awaitSnapshot(ctx, snapshot); err != nil {
		return builder.Artifact{}, err
	}
	id, err := c.register(ctx, env, snapshot, boot)
	if err != nil {
		return builder.Artifact{}, err
	}
	// The snapshot is the image's from now on, and goes with it.
	if err := env.Ledger.Done(kindUpload, snapshot); err != nil {
		return builder.Artifact{}, err
	}
	env.Progress.Info("image %s in %s: %s", id, c.region, c.name)
	if c.image, err = c.awaitImage(ctx, env, c.region, id, nil); err != nil {
		return builder.Artifact{}, err
	}
	return builder.Artifact{Images: []builder.ImageID{{Region: c.region, ID: id, Format: "ami", Size: int64(env.Plan.Spec.Image.DiskGB) << 30}}}, nil
}

func (c *Cloud) awaitSnapshot(ctx context.Context, id string) error {
	return until(ctx, "snapshot "+id, imageLimit, func(ctx context.Context) (bool, error) {
		out, err := c.acct.in(c.region).DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{id}})
		if notFound(err) || err == nil && len(out.Snapshots) == 0 {
			return false, nil
		}
		if err != nil {
			return false, explain(c.region, err)
		}
		switch s := out.Snapshots[0]; s.State {
		case types.SnapshotStateCompleted:
			return true, nil
		case types.SnapshotStateError:
			return false, fmt.Errorf("snapshot %s failed: %s; publish the disk again, and ask AWS support if it stays so", id, sdk.ToString(s.StateMessage))
		}
		return false, nil
	})
}

// register makes the image and has its id in the ledger at once.
func (c *Cloud) register(ctx context.Context, env *builder.Env, snapshot string, boot types.BootModeValues) (string, error) {
	arch := architectures[env.Plan.Spec.Image.Arch]
	call, cancel := creating(ctx)
	defer cancel()
	var id string
	err := until(call, "registering the image", time.Minute, func(ctx context.Context) (bool, error) {
		out, err := c.acct.in(c.region).RegisterImage(ctx, &ec2.RegisterImageInput{
			Name: &c.name, Description: sdk.String(description(env)), Architecture: arch, RootDeviceName: sdk.String(rootDevice),
			VirtualizationType: sdk.String("hvm"), EnaSupport: sdk.Bool(true), ImdsSupport: types.ImdsSupportValuesV20, BootMode: boot,
			BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: sdk.String(rootDevice), Ebs: &types.EbsBlockDevice{SnapshotId: &snapshot,
				VolumeSize: sdk.Int32(int32(env.Plan.Spec.Image.DiskGB)), VolumeType: types.VolumeTypeGp3, DeleteOnTermination: sdk.Bool(true)}}},
			TagSpecifications: tagSpecs(c.imageTags(env), types.ResourceTypeImage)})
		switch {
		case IsCode(err, "InvalidAMIName.Duplicate"): // an answer was lost and the call repeated
			id, err = c.acct.imageOf(ctx, c.region, c.name, env.BakeID, err)
		case err == nil:
			id = *out.ImageId
		case notFound(err): // the snapshot is not known everywhere yet
			return false, nil
		}
		return err == nil, err
	})
	c.acct.created(c.region, err)
	if err != nil {
		return "", fmt.Errorf("registering the image: %w", explain(c.region, err))
	}
	return id, c.record(env, kindImage, c.region, id)
}
