package exporter

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

// A list tells of a thousand files what HEAD tells of one. It is only a shortcut: whoever may not list, and whatever a
// list leaves open, is asked for file by file, and so is every file that is not as the database knows it.

const (
	// listFrom is how many files of one place are worth a list.
	listFrom = 20
	// listPage is how many objects S3 tells at once.
	listPage = 1000
	// listMost is how many objects may be listed for each file that is looked for: a folder may hold much else.
	listMost = 4
)

// place is where some of the tenant's files are.
type place struct{ bucket, prefix string }

// listFiles fills in what lists tell of the files.
func (s *Snapshot) listFiles(ctx context.Context) error {
	at := map[place]map[string][]*file{} // by key: two rows may name one
	for i := range s.files {
		f := &s.files[i]
		if prefix, ok := s.exporter.cfg.Attachments.prefixOf(s.attempt.Tenant.Name, f.bucket(), f.key()); ok && f.stored() {
			p := place{f.bucket(), prefix}
			if at[p] == nil {
				at[p] = map[string][]*file{}
			}
			at[p][f.key()] = append(at[p][f.key()], f)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for p, files := range at {
		if len(files) >= listFrom {
			group.Go(func() error { return s.sources.list(ctx, p, files) })
		}
	}
	return group.Wait()
}

// list reads the list of one place, from the part that all keys begin with. Its only error is the context's: whatever
// else is in the way is left to be met by HEAD.
func (s sources) list(ctx context.Context, p place, files map[string][]*file) error {
	in := &s3.ListObjectsV2Input{Bucket: aws.String(p.bucket), Prefix: aws.String(common(files))}
	for pages := listMost*len(files)/listPage + 1; pages > 0; pages-- {
		var out *s3.ListObjectsV2Output
		err := s.retry(ctx, func(ctx context.Context, _ *watchdog, _ func()) (err error) {
			out, err = s.client.ListObjectsV2(ctx, in, once)
			return err
		})
		if err != nil {
			return context.Cause(ctx)
		}
		for _, o := range out.Contents {
			for _, f := range files[aws.ToString(o.Key)] {
				f.settle(o)
			}
		}
		next := aws.ToString(out.NextContinuationToken)
		if !aws.ToBool(out.IsTruncated) || next == "" || next == aws.ToString(in.ContinuationToken) {
			break // the end, or a store that does not say how to go on: HEAD finds the rest
		}
		in.ContinuationToken = &next
	}
	return nil
}

// settle takes what a list says of the file, if that leaves no question.
func (f *file) settle(o types.Object) {
	etag := strings.Trim(aws.ToString(o.ETag), `"`)
	cold := o.StorageClass == types.ObjectStorageClassGlacier || o.StorageClass == types.ObjectStorageClassDeepArchive ||
		o.StorageClass == types.ObjectStorageClassIntelligentTiering // which may be archived, and a list does not tell
	if o.Size == nil || o.LastModified == nil || etag == "" || cold || f.etag != "" && f.etag != etag {
		return
	}
	f.size, f.modified, f.etag, f.known = *o.Size, o.LastModified.Unix(), etag, true
}

// common is what all keys begin with.
func common(files map[string][]*file) string {
	var prefix string
	first := true
	for key := range files {
		if first {
			prefix, first = key, false
		}
		n := 0
		for n < min(len(prefix), len(key)) && prefix[n] == key[n] {
			n++
		}
		prefix = prefix[:n]
	}
	return prefix
}
