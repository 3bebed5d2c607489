package aws

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/images"
)

// TestLesserServers bakes at servers that know less than EC2 does: what can be done without is, with a warning; nothing else
// is left, and nothing is done twice.
func TestLesserServers(t *testing.T) {
	every := []string{"GetCallerIdentity", "DescribeRegions", "DescribeRouteTables", "DescribeInstanceTypeOfferings", "DescribeImageReferences", "ModifyImageAttribute",
		"ModifyInstanceAttribute", "DescribeSecurityGroups", "EnableImageDeprecation", "EnableImageDeregistrationProtection", "GetConsoleOutput"}
	for _, tt := range []struct {
		name   string
		lesser awstest.Lesser
		late   time.Duration
		warned []string
	}{
		{"knows everything", awstest.Lesser{}, 0, nil},
		{"few actions", awstest.Lesser{Unknown: every}, 0, []string{"DescribeRegions", "DescribeRouteTables", "DescribeInstanceTypeOfferings", "requiring IMDSv2", "deprecating", "protecting"}},
		{"few actions, 501", awstest.Lesser{Unknown: every, Says: "501"}, 0, []string{"DescribeRegions"}},
		{"few actions, a page", awstest.Lesser{Unknown: every, Says: "500"}, 0, []string{"DescribeRegions"}},
		{"acts on dry run", awstest.Lesser{ActsOnDryRun: true}, 0, []string{"ignores DryRun"}},
		{"no tags while creating", awstest.Lesser{NoTags: true}, 0, []string{"tag"}},
		{"no tags for snapshots", awstest.Lesser{NoSnapshotTags: true}, 0, []string{"snapshot"}},
		{"snapshots stay", awstest.Lesser{KeepsSnapshots: true}, 0, nil},
		{"few fields", awstest.Lesser{Omits: []string{"placement", "deregistrationProtection", "bootMode", "architecture", "launchTime", "rootDeviceName", "volumeSize", "groupSet"}}, 0, nil},
		{"late ids", awstest.Lesser{}, 20 * time.Second, nil},
	} {
		for _, fails := range []bool{false, true} {
			t.Run(tt.name+map[bool]string{true: ", copy fails"}[fails], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, awstest.Options{Lesser: tt.lesser, Consistency: tt.late, Delays: awstest.Delays{Run: 3 * time.Second, Stop: 3 * time.Second, Image: 5 * time.Second, Copy: 5 * time.Second}})
					w.spec.AWS = images.AWS{CopyTo: []string{"eu-west-1"}, DeprecateAfter: 3, Protect: true}
					if fails {
						w.server.Configure(func(o *awstest.Options) { o.CopyError = map[string]string{"eu-west-1": "disk full"} })
					}
					var said strings.Builder
					w.say, _ = builder.NewProgress(&said, builder.ProgressOptions{Kind: "plain"})
					r := w.bake(t.Context())
					if (r.err != nil) != fails {
						t.Fatalf("%v\n%s", r.err, said.String())
					}
					for _, want := range tt.warned {
						if !strings.Contains(said.String(), want) && !fails {
							t.Errorf("no warning of %s:\n%s", want, said.String())
						}
					}
					time.Sleep(time.Minute)
					all := w.onlyFinished()
					if want := map[bool]int{true: 0, false: 2}[fails]; len(all) != want {
						t.Errorf("%d images, want %d", len(all), want)
					}
					if fails {
						return
					}
					for _, i := range all {
						if i.Tags[tagBake] == "" || i.Tags[tagPlan] == "" {
							t.Errorf("image %s is not marked as ours: %v", i.ID, i.Tags)
						}
					}
					if again := w.bake(t.Context()); again.err != nil || !again.reused || slices.Contains(tt.warned, "never") {
						t.Errorf("the second bake: %+v", again)
					}
				})
			})
		}
	}
}
