package azuretest

import (
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"

	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	compute "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7/fake"
)

// blob is the page blob behind a disk that is uploaded.
type blob struct {
	data []byte
	puts int
	sig  string // of the access that is granted now; "" when none is
}

func (s *Server) disks(f *compute.ServerFactory) {
	id := func(rg, name string) string { return rid(rg, computeNS, "disks", name) }
	f.DisksServer.BeginCreateOrUpdate = func(ctx context.Context, rg, name string, in armcompute.Disk, _ *armcompute.DisksClientBeginCreateOrUpdateOptions) (azfake.PollerResponder[armcompute.DisksClientCreateOrUpdateResponse], azfake.ErrorResponder) {
		v, e := create[armcompute.Disk](s, ctx, id(rg, name), in, s.Delays.Disk, func(r *resource) *armError {
			cd := in.Properties.CreationData
			if cd == nil || *cd.CreateOption != armcompute.DiskCreateOptionUpload || cd.UploadSizeBytes == nil {
				return fail(http.StatusBadRequest, "InvalidParameter", "only disks to be uploaded are made here")
			}
			if size := *cd.UploadSizeBytes; size < 20972032 || (size-512)%(1<<20) != 0 {
				return fail(http.StatusBadRequest, "InvalidParameter", "uploadSizeBytes %d is not a multiple of 1 MiB plus 512 bytes of at least 20972032", size)
			}
			return nil
		}, func(r *resource) {
			r.upload = "ReadyToUpload"
			r.body["properties"].(map[string]any)["diskState"] = r.upload
		})
		return accepted(armcompute.DisksClientCreateOrUpdateResponse{Disk: v}, e)
	}
	f.DisksServer.Get = func(_ context.Context, rg, name string, _ *armcompute.DisksClientGetOptions) (azfake.Responder[armcompute.DisksClientGetResponse], azfake.ErrorResponder) {
		v, e := get[armcompute.Disk](s, id(rg, name))
		return answer(armcompute.DisksClientGetResponse{Disk: v}, e)
	}
	f.DisksServer.BeginGrantAccess = func(ctx context.Context, rg, name string, in armcompute.GrantAccessData, _ *armcompute.DisksClientBeginGrantAccessOptions) (azfake.PollerResponder[armcompute.DisksClientGrantAccessResponse], azfake.ErrorResponder) {
		s.mu.Lock()
		defer s.mu.Unlock()
		r, e := s.find(id(rg, name))
		if e == nil && r.upload != "ReadyToUpload" && r.upload != "ActiveUpload" {
			e = fail(http.StatusConflict, "OperationNotAllowed", "write access to a disk in state %s cannot be granted", r.upload)
		}
		if e != nil {
			return accepted(armcompute.DisksClientGrantAccessResponse{}, e)
		}
		size := *from[armcompute.Disk](r.body).Properties.CreationData.UploadSizeBytes
		s.begin(ctx, r, 0, func() {
			r.upload = "ActiveUpload"
			r.body["properties"].(map[string]any)["diskState"] = r.upload
		})
		sas := fmt.Sprintf("%s/blob/%s?sv=2021-08-06&sig=s%d", s.URL, name, s.seq)
		if s.SAS != nil {
			sas = s.SAS(name, size)
		} else if b := s.blobs[name]; b == nil {
			s.blobs[name] = &blob{data: make([]byte, size), sig: fmt.Sprintf("s%d", s.seq)}
		} else {
			b.sig = fmt.Sprintf("s%d", s.seq)
		}
		r.op.result = map[string]string{"accessSAS": sas}
		return accepted(armcompute.DisksClientGrantAccessResponse{}, nil)
	}
	f.DisksServer.BeginRevokeAccess = func(ctx context.Context, rg, name string, _ *armcompute.DisksClientBeginRevokeAccessOptions) (azfake.PollerResponder[armcompute.DisksClientRevokeAccessResponse], azfake.ErrorResponder) {
		s.mu.Lock()
		defer s.mu.Unlock()
		r, e := s.find(id(rg, name))
		if e == nil {
			s.begin(ctx, r, 0, func() {
				if r.upload == "ActiveUpload" {
					r.upload = "Unattached"
				}
				r.body["properties"].(map[string]any)["diskState"] = r.upload
				if b := s.blobs[name]; b != nil {
					b.sig = ""
				}
				if s.Revoked != nil {
					s.Revoked(name)
				}
			})
		}
		return accepted(armcompute.DisksClientRevokeAccessResponse{}, e)
	}
}

// Blob gives what was uploaded into a disk and in how many writes.
func (s *Server) Blob(disk string) (data []byte, puts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.blobs[disk]; b != nil {
		return b.data, b.puts
	}
	return nil, 0
}

// pages takes writes of pages and lists those written, as much of the page blob protocol as an upload needs.
func (s *Server) pages(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blobs[strings.TrimPrefix(r.URL.Path, "/blob/")]
	q := r.URL.Query()
	var from, to int64
	header := r.Header.Get("X-Ms-Range")
	if header == "" {
		header = r.Header.Get("Range")
	}
	_, _ = fmt.Sscanf(header, "bytes=%d-%d", &from, &to)
	switch {
	case s.dead:
		panic(http.ErrAbortHandler)
	case err != nil || b == nil:
		http.Error(w, "no such blob", http.StatusNotFound)
	case b.sig == "" || q.Get("sig") != b.sig:
		w.Header().Set("X-Ms-Error-Code", "AuthenticationFailed")
		http.Error(w, "the signature is not valid", http.StatusForbidden)
	case r.Method == http.MethodPut && q.Get("comp") == "page":
		b.puts++
		if s.OnPage != nil {
			if status := s.OnPage(b.puts, from); status != 0 {
				w.Header().Set("X-Ms-Error-Code", "InjectedFault")
				w.WriteHeader(status)
				return
			}
		}
		if from%512 != 0 || (to+1)%512 != 0 || to-from+1 != int64(len(body)) || len(body) > 4<<20 || to >= int64(len(b.data)) {
			w.Header().Set("X-Ms-Error-Code", "InvalidPageRange")
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		copy(b.data[from:], body)
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodGet && q.Get("comp") == "pagelist":
		_, _ = io.WriteString(w, xml.Header+"<PageList></PageList>")
	default:
		http.Error(w, "unknown call on a blob", http.StatusBadRequest)
		s.unknown = append(s.unknown, r.Method+" "+r.URL.String())
	}
}
