package lint

import "github.com/dorunner/dorunner-bake/cloudinit/decode"

// Limit is how many bytes of user-data a cloud takes, before it is encoded in base64 for the way; 0 is no limit.
// EC2 documents 16,384, but one of its interfaces refuses the last byte. Azure's customData is 65,535 bytes decoded.
var Limit = map[string]int{"aws": 16383, "azure": 65535, "metal": 0}

func (l *linter) sizes(r *decode.Result) {
	for _, cloud := range []string{"aws", "azure"} {
		if most := Limit[cloud]; r.Sent > most && (l.Cloud == "" || l.Cloud == cloud) {
			l.add(r.File, 0, "size", l.Cloud == "", "", "compress it with --gzip, or fetch the bulk from elsewhere",
				"%d bytes are more than the %d that %s takes", r.Sent, most, cloud)
		}
	}
}
