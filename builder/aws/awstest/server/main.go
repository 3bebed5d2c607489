// Command server is the test account on a socket, for trying things by hand and for programs in other languages:
//
//	go run ./builder/aws/awstest/server -run 8s -stop 12s -image 25s -terminate 10s
//
// It prints the variables that the AWS tools and dorunner-bake find it by.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
)

func main() {
	var o awstest.Options
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	flag.DurationVar(&o.Delays.Run, "run", 0, "from RunInstances to running")
	flag.DurationVar(&o.Delays.Stop, "stop", 0, "from StopInstances to stopped")
	flag.DurationVar(&o.Delays.Image, "image", 0, "from CreateImage to available")
	flag.DurationVar(&o.Delays.Copy, "copy", 0, "from CopyImage to available")
	flag.DurationVar(&o.Delays.Terminate, "terminate", 0, "from TerminateInstances to terminated")
	flag.DurationVar(&o.Consistency, "consistency", 0, "how long a new id stays unknown")
	flag.Parse()

	s := awstest.New(o)
	for _, i := range []struct{ owner, name, arch string }{
		{"099720109477", "ubuntu/images/hvm-ssd/ubuntu-focal-20.04-amd64-server-20250301", "x86_64"},
		{"099720109477", "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-20250301", "x86_64"},
		{"099720109477", "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20250301", "x86_64"},
		{"136693071363", "debian-12-amd64-20250301-2038", "x86_64"},
	} {
		s.AddBaseImage("us-east-1", i.owner, i.name, i.arch, time.Now().AddDate(0, -1, 0))
	}
	s.OnCall = func(c awstest.Call) awstest.Reaction {
		log.Print(c)
		return awstest.Reaction{}
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	_, _ = fmt.Fprintf(os.Stdout, "export AWS_ENDPOINT_URL=http://%s AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_EC2_METADATA_DISABLED=true\n", l.Addr())
	web := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	log.Fatal(web.Serve(l))
}
