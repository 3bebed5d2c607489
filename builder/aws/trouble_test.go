package aws

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/images"
)

// failing are machines whose image does not work.
type failing struct{ selftest }

func (failing) Console(string) string {
	return "booting\nFAIL docker: it does not answer\n" + bootMark + ": failed\n"
}

// TestTrouble: what goes wrong late in a bake is told with what to do, and nothing stays.
func TestTrouble(t *testing.T) {
	for _, tt := range []struct {
		name    string
		spec    images.AWS
		account awstest.Options
		want    []string
		images  int // that stay, on purpose
	}{
		{"snapshot error", images.AWS{}, awstest.Options{SnapshotError: "Snapshot creation failed"}, []string{"image ami-", "became failed: Snapshot creation failed; bake again"}, 0},
		{"copy failed in one of three", images.AWS{CopyTo: []string{"eu-west-1", "ap-southeast-1"}}, awstest.Options{CopyError: map[string]string{"eu-west-1": "key disabled"}},
			[]string{"region eu-west-1: image ami-", "became failed: key disabled"}, 0},
		{"test boot fails", images.AWS{TestBoot: true}, awstest.Options{Machines: failing{}}, []string{"its self test failed", "FAIL docker: it does not answer"}, 0},
		{"test boot fails, kept", images.AWS{TestBoot: true, KeepFailed: true}, awstest.Options{Machines: failing{}}, []string{"its self test failed", "is kept for you to look at"}, 1},
		{"private subnet", images.AWS{Subnet: "subnet-0aaaaaaaaaaaaaaaa", PrivateIP: true}, awstest.Options{}, []string{"has no route out (0.0.0.0/0)"}, 0},
		{"a key of one region", images.AWS{CopyTo: []string{"eu-west-1"}, KMSKey: "arn:aws:kms:us-east-1:123456789012:key/1"}, awstest.Options{}, []string{"exists in one region only", "alias/NAME"}, 0},
		{"a key of another region", images.AWS{KMSKey: "arn:aws:kms:eu-west-1:123456789012:key/1"}, awstest.Options{}, []string{"the image in us-east-1 needs one"}, 0},
		{"a key of each region", images.AWS{CopyTo: []string{"eu-west-1"}, KMSKey: "arn:aws:kms:us-east-1:123456789012:key/1, arn:aws:kms:eu-west-1:123456789012:key/2"}, awstest.Options{}, nil, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.account.Delays = awstest.Delays{Run: time.Second, Stop: time.Second, Image: 3 * time.Second, Copy: time.Second, Terminate: 5 * time.Second}
				w := newWorld(t, tt.account)
				w.server.AddSubnet("us-east-1", "subnet-0aaaaaaaaaaaaaaaa", "us-east-1a", false)
				w.spec.AWS = tt.spec
				r := w.bake(t.Context())
				if (r.err != nil) != (tt.want != nil) {
					t.Fatal(r.err)
				}
				for _, want := range tt.want {
					if !strings.Contains(r.err.Error(), want) {
						t.Errorf("%v\nlacks %q", r.err, want)
					}
				}
				time.Sleep(time.Minute)
				if got := w.onlyFinished(); len(got) != tt.images {
					t.Errorf("%d images stay, want %d", len(got), tt.images)
				}
				w.noComplaints()
			})
		})
	}
}

// TestSpot: spot is tried everywhere first, then on demand; a spot machine is never stopped, which EC2 refuses.
func TestSpot(t *testing.T) {
	for name, full := range map[string][]string{"spot": {"spot:us-east-1a/*"}, "no spot": {"spot:*"}, "only the last place": {"spot:*", "us-east-1?/t3a.xlarge", "us-east-1a/*"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, awstest.Options{NoCapacity: full, Delays: awstest.Delays{Image: 3 * time.Second, Terminate: 5 * time.Second}})
				w.spec.AWS = images.AWS{Spot: true, Sizes: []string{"t3a.xlarge", "m6a.xlarge"}}
				r := w.bake(t.Context())
				if r.err != nil {
					t.Fatal(r.err)
				}
				stops, last := 0, awstest.Call{}
				for _, c := range w.server.Calls() {
					if c.Action == "StopInstances" {
						stops++
					}
					if c.Action == "RunInstances" && !c.DryRun {
						last = c
					}
				}
				spot := last.Params.Get("InstanceMarketOptions.MarketType") == "spot"
				if spot != (name == "spot") || spot == (stops > 0) {
					t.Errorf("spot %v, %d stops", spot, stops)
				}
				if name == "only the last place" && last.Params.Get("InstanceType") != "m6a.xlarge" {
					t.Errorf("the last machine: %v", last.Params.Get("InstanceType"))
				}
				time.Sleep(time.Minute)
				w.onlyFinished()
				w.noComplaints()
			})
		})
	}
}
