package azure

import (
	"net/http"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/builder/azure/azuretest"
)

// BenchmarkBakeAgainstIdeal bakes against a subscription in which a machine takes 20 s, deallocating 15 s, an image 30 s
// and a version 60 s, over HTTP and on the real clock, and tells how much longer than those it took. It takes two minutes
// a round: run it with -benchtime=1x, as `make bench` does.
func BenchmarkBakeAgainstIdeal(b *testing.B) {
	if testing.Short() {
		b.Skip("takes two minutes")
	}
	delays := azuretest.Delays{VM: 20 * time.Second, Deallocate: 15 * time.Second, Image: 30 * time.Second, Version: 60 * time.Second, Delete: 5 * time.Second}
	ideal := delays.VM + delays.Deallocate + delays.Image + delays.Version
	var took time.Duration
	var calls int
	for b.Loop() {
		w := newWorld(b)
		stop := w.server.Listen()
		w.spec.Azure.Endpoint, w.spec.Azure.ReplicateTo, w.spec.Azure.TestBoot = w.server.URL, nil, false
		w.transport = http.DefaultClient
		w.server.Delays = delays
		began := time.Now()
		r := w.bake(b.Context())
		took += time.Since(began)
		stop()
		if r.err != nil {
			b.Fatal(r.err)
		}
		calls += len(w.server.Calls())
	}
	b.ReportMetric(took.Seconds()/float64(b.N), "bake-s")
	b.ReportMetric(took.Seconds()/float64(b.N)/ideal.Seconds(), "x-ideal")
	b.ReportMetric(float64(calls)/float64(b.N), "calls")
}
