package metal

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/images"
)

// base is the disk that a bake begins with: a raw file that nobody writes to.
type base struct {
	file   string
	os     string
	source string // URL, file, or how it was made
	digest string // SHA-256 of what source names
}

// openBase finds or makes the base disk of a plan. What is downloaded or built is kept in the user's cache.
func openBase(ctx context.Context, env *builder.Env) (base, error) {
	dir, err := cacheDir()
	if err != nil {
		return base{}, err
	}
	unlock, err := lockDir(ctx, dir, env.Progress)
	if err != nil {
		return base{}, err
	}
	defer unlock()
	m, row := env.Plan.Spec.Metal, env.Plan.Base
	switch {
	case isURL(m.Base):
		return fetchBase(ctx, env, dir, m.Base, m.BaseSHA256)
	case m.Base != "":
		return fileBase(ctx, env, dir, m.Base, m.BaseSHA256)
	case row.DiskURL != "":
		sum, err := publishedSum(ctx, row.SHA256URL, path.Base(row.DiskURL))
		if err != nil {
			return cachedBase(ctx, env, dir, row.DiskURL, err)
		}
		return fetchBase(ctx, env, dir, row.DiskURL, sum)
	case row.OS == "debian-12":
		return debianBase(ctx, env, dir)
	}
	return base{}, fmt.Errorf("there is no disk of %s in the catalogue: give one with --base", row.OS)
}

// BaseDisk is the raw disk that a bake of a metal plan begins with, made or fetched where the cache has none. It must not
// be written to.
func BaseDisk(ctx context.Context, plan *images.Plan, p builder.Progress) (string, error) {
	b, err := openBase(ctx, &builder.Env{Plan: plan, Progress: p})
	return b.file, err
}

func isURL(s string) bool { return strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") }

// cacheDir is where base disks are kept.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no directory to keep base disks in: %w; set XDG_CACHE_HOME", err)
	}
	dir = filepath.Join(dir, "dorunner-bake")
	return dir, os.MkdirAll(dir, 0o755)
}

// lockDir keeps two bakes from filling the cache at once, and clears what a killed one left half done.
func lockDir(ctx context.Context, dir string, p builder.Progress) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for told := false; ; told = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", f.Name(), err), f.Close())
		}
		if !told {
			p.Info("waiting for another bake that prepares a base disk")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(200 * time.Millisecond):
		}
	}
	stale, err := filepath.Glob(filepath.Join(dir, scratchPrefix+"*"))
	for _, s := range stale {
		err = errors.Join(err, os.RemoveAll(s))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}

// scratchPrefix begins the names in the cache that do not outlive the bake that made them.
const scratchPrefix = ".scratch-"

// fileBase uses a disk of the author's own.
func fileBase(ctx context.Context, env *builder.Env, dir, file, want string) (base, error) {
	env.Progress.Info("reading %s", file)
	_, sum, err := digest(ctx, file)
	if err != nil {
		return base{}, fmt.Errorf("the base disk: %w", err)
	}
	if want != "" && !strings.EqualFold(sum, want) {
		return base{}, wrongSum(file, sum, want)
	}
	raw, err := toRaw(ctx, dir, file, sum)
	return base{file: raw, source: file, digest: sum}, err
}

func wrongSum(what, got, want string) error {
	return fmt.Errorf("%s has SHA-256 %s, and %s is wanted: it is damaged or another file; get it anew or correct base_sha256",
		what, got, strings.ToLower(want))
}

// fetchBase downloads a disk whose SHA-256 is known, unless the cache has it.
func fetchBase(ctx context.Context, env *builder.Env, dir, url, sum string) (base, error) {
	sum = strings.ToLower(sum)
	file := filepath.Join(dir, sum[:16]+"-"+path.Base(url))
	if _, err := os.Stat(file); err != nil {
		if err := download(ctx, env, url, sum, file); err != nil {
			return base{}, explainFull(err, dir)
		}
	}
	raw, err := toRaw(ctx, dir, file, sum)
	return base{file: raw, source: url, digest: sum}, err
}

// cachedBase is what is left to do when the publisher cannot be asked for the newest disk's sum: use the newest that
// was checked before.
func cachedBase(ctx context.Context, env *builder.Env, dir, url string, why error) (base, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*-"+path.Base(url)))
	if err != nil || len(files) == 0 {
		return base{}, fmt.Errorf("%w; download the disk elsewhere and give it with --base, or use --os debian-12, which is built here", why)
	}
	newest := files[0]
	for _, f := range files[1:] {
		if modTime(f).After(modTime(newest)) {
			newest = f
		}
	}
	env.Progress.Warn("%v: using the disk downloaded on %s", why, modTime(newest).Format(time.DateOnly))
	b, err := fileBase(ctx, env, dir, newest, "")
	b.source = url
	return b, err
}

func modTime(file string) time.Time {
	info, err := os.Stat(file)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// publishedSum finds a file's line in a SHA256SUMS file.
func publishedSum(ctx context.Context, url, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := get(ctx, url, 0)
	if err != nil {
		return "", fmt.Errorf("asking for the base disk's checksum: %w", err)
	}
	defer r.Body.Close()
	for s := bufio.NewScanner(io.LimitReader(r.Body, 1<<20)); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) == 2 && strings.TrimPrefix(f[1], "*") == name && len(f[0]) == 64 {
			return f[0], nil
		}
	}
	return "", fmt.Errorf("%s does not list %s", url, name)
}

// stallTimeout is how long a download may stand still.
const stallTimeout = time.Minute

// download gets url into file and checks it. What arrived before an interruption is kept beside it and continued.
func download(ctx context.Context, env *builder.Env, url, sum, file string) error {
	part := file + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stallTimeout, func() { cancel(fmt.Errorf("nothing arrived for %v", stallTimeout)) })
	defer stalled.Stop()
	r, err := get(ctx, url, have) //nolint:bodyclose // below, where there is one
	switch {
	case errors.Is(err, errRange): // there is nothing behind what we have
	case err != nil:
		return fmt.Errorf("downloading the base disk: %w", err)
	default:
		defer r.Body.Close()
		if r.StatusCode == http.StatusOK { // from the beginning after all
			have = 0
		}
		if err := errors.Join(f.Truncate(have), seek(f, have)); err != nil {
			return err
		}
		total := int64(0)
		if r.ContentLength > 0 {
			total = have + r.ContentLength
		}
		count := readerFunc(func(p []byte) (int, error) {
			n, err := r.Body.Read(p)
			have += int64(n)
			stalled.Reset(stallTimeout)
			env.Progress.Count("base disk", have, total, "bytes")
			return n, err
		})
		if _, err := io.Copy(f, count); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return fmt.Errorf("downloading %s: %w; run again to continue it", url, err)
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	_, got, err := digest(ctx, part)
	if err != nil {
		return err
	}
	if got != sum {
		return errors.Join(wrongSum(url, got, sum), os.Remove(part))
	}
	return os.Rename(part, file)
}

func seek(f *os.File, at int64) error {
	_, err := f.Seek(at, io.SeekStart)
	return err
}

var errRange = errors.New("the server has nothing from there on")

// get asks for url from an offset on.
func get(ctx context.Context, url string, from int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	switch r.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		return r, nil
	case http.StatusRequestedRangeNotSatisfiable:
		r.Body.Close()
		return nil, errRange
	}
	r.Body.Close()
	return nil, fmt.Errorf("%s answers %s", url, r.Status)
}

// toRaw gives a disk as a raw file, converted once; sum is its SHA-256.
func toRaw(ctx context.Context, dir, file, sum string) (string, error) {
	raw := filepath.Join(dir, sum[:16]+".raw")
	if _, err := os.Stat(raw); err == nil {
		return raw, nil
	}
	text, err := output(ctx, "qemu-img", "info", "--output=json", file)
	if err != nil {
		return "", fmt.Errorf("the base disk: %w", err)
	}
	var info struct {
		Format  string `json:"format"`
		Backing string `json:"backing-filename"`
	}
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		return "", fmt.Errorf("the base disk: reading what qemu-img says of %s: %w", file, err)
	}
	if info.Backing != "" {
		return "", fmt.Errorf("%s is only what differs from %s: flatten it with qemu-img convert", file, info.Backing)
	}
	if info.Format == "raw" {
		return file, nil
	}
	temp := filepath.Join(dir, scratchPrefix+sum[:16])
	if err := run(ctx, "qemu-img", "convert", "-f", info.Format, "-O", "raw", file, temp); err != nil {
		return "", errors.Join(explainFull(err, dir), removeFile(temp))
	}
	return raw, os.Rename(temp, raw)
}

// removeFile removes a file; one that is gone is success.
func removeFile(file string) error {
	if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// explainFull says what to do about a full disk.
func explainFull(err error, dir string) error {
	if err != nil && (errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), "No space left on device")) {
		return fmt.Errorf("%w; make room in %s or choose another directory", err, dir)
	}
	return err
}
