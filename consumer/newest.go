package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// entry is one value of a bucket.
type entry struct {
	key      string
	value    []byte
	revision uint64
	gone     bool // the value was removed
}

// One question asks for so many cells, of which the answer has so many bytes. The server's limit is 1024 cells, and a
// subscription's 64 MiB that nobody has looked at yet.
const (
	cellsAtOnce = 256
	bytesAtOnce = 8 << 20
)

// newest yields the cells whose keys match, as they are now, in no order. The library would make a consumer for that.
// Who may make consumers can make the server publish wherever he likes, and so many who may read must not: see
// deploy/nats.
func (b bucketCells) newest(ctx context.Context, filter string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		subjects, err := b.subjects(ctx, filter)
		if err != nil {
			yield(entry{}, err)
			return
		}
		for asked := range slices.Chunk(subjects, cellsAtOnce) {
			for next := uint64(1); next > 0; {
				var got []entry
				if got, next, err = b.batch(ctx, asked, next); err != nil {
					yield(entry{}, err)
					return
				}
				for _, c := range got {
					if !yield(c, nil) {
						return
					}
				}
			}
		}
	}
}

// lastChanged yields the cells whose keys match, those that changed last first, as they were when it began. It reads no more
// of the bucket than is asked for: windows of the stream's sequence, from the end on, each twice as long as the one after it
// while little is found.
func (b bucketCells) lastChanged(ctx context.Context, filter string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		first, last, err := b.bounds(ctx)
		if err != nil {
			yield(entry{}, err)
			return
		}
		seen, window := map[string]bool{}, uint64(cellsAtOnce)
		for end := last + 1; end > first; {
			from := first
			if end-first > window {
				from = end - window
			}
			got, err := b.between(ctx, filter, from, end)
			if err != nil {
				yield(entry{}, err)
				return
			}
			for _, c := range slices.Backward(got) {
				if seen[c.key] {
					continue
				}
				if seen[c.key] = true; !c.gone && !yield(c, nil) {
					return
				}
			}
			if end = from; len(got) < cellsAtOnce {
				window *= 2
			}
		}
	}
}

// bounds are the first and the last sequence of the bucket's stream.
func (b bucketCells) bounds(ctx context.Context) (first, last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	s, err := b.js.Stream(ctx, "KV_"+b.kv.Bucket())
	if err != nil {
		return 0, 0, fmt.Errorf("list bucket %s: %w", b.kv.Bucket(), notSetUp(err))
	}
	state := s.CachedInfo().State
	return max(1, state.FirstSeq), state.LastSeq, nil
}

// between are the values that match, of all revisions from one sequence on and before another, the oldest first.
func (b bucketCells) between(ctx context.Context, filter string, from, end uint64) (all []entry, err error) {
	for next := from; next > 0 && next < end; {
		var got []entry
		n := min(end-next, cellsAtOnce)
		if got, next, err = b.get(ctx, map[string]any{"next_by_subj": b.prefix() + filter, "seq": next, "batch": n, "max_bytes": bytesAtOnce}, next); err != nil {
			return nil, err
		}
		for _, c := range got {
			if c.revision >= end {
				return all, nil
			}
			all = append(all, c)
		}
	}
	return all, nil
}

func (b bucketCells) prefix() string { return "$KV." + b.kv.Bucket() + "." }

// api is how the subjects of JetStream's API begin; see [JetStream].
func (b bucketCells) api() string {
	if domain := b.js.Options().Domain; domain != "" {
		return "$JS." + domain + ".API."
	}
	return jetstream.DefaultAPIPrefix
}

// subjects are those that match and have a message, be it one that says that the cell is gone.
func (b bucketCells) subjects(ctx context.Context, filter string) (subjects []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	s, err := b.js.Stream(ctx, "KV_"+b.kv.Bucket())
	var info *jetstream.StreamInfo
	if err == nil {
		info, err = s.Info(ctx, jetstream.WithSubjectFilter(b.prefix()+filter))
	}
	if err != nil {
		return nil, fmt.Errorf("list bucket %s: %w", b.kv.Bucket(), notSetUp(err))
	}
	return slices.Sorted(maps.Keys(info.State.Subjects)), nil
}

// batch asks for the newest message of each subject, from a sequence on. next is where to go on, or 0.
func (b bucketCells) batch(ctx context.Context, subjects []string, from uint64) (got []entry, next uint64, err error) {
	got, next, err = b.get(ctx, map[string]any{"multi_last": subjects, "seq": from, "max_bytes": bytesAtOnce}, from)
	return slices.DeleteFunc(got, func(c entry) bool { return c.gone }), next, err
}

// get asks for several messages of the bucket's stream at once. next is where to go on, or 0.
func (b bucketCells) get(ctx context.Context, ask map[string]any, from uint64) (got []entry, next uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	question, err := json.Marshal(ask)
	if err != nil {
		return nil, 0, err
	}
	nc := b.js.Conn()
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err == nil {
		defer func() { _ = sub.Unsubscribe() }()
		err = nc.PublishRequest(b.api()+"DIRECT.GET.KV_"+b.kv.Bucket(), inbox, question)
	}
	for err == nil {
		var m *nats.Msg
		if m, err = sub.NextMsgWithContext(ctx); err != nil {
			break
		}
		switch status := m.Header.Get("Status"); {
		case status == "204" && m.Header.Get("Nats-Num-Pending") == "0", status == "404":
			return got, 0, nil
		case status == "204": // as much as one answer may have
			last, err := strconv.ParseUint(m.Header.Get("Nats-Last-Sequence"), 10, 64)
			if err != nil || last < from {
				return nil, 0, fmt.Errorf("list bucket %s: the answer ends at %q", b.kv.Bucket(), m.Header.Get("Nats-Last-Sequence"))
			}
			return got, last + 1, nil
		case status != "":
			return nil, 0, fmt.Errorf("list bucket %s: %s %s", b.kv.Bucket(), status, m.Header.Get("Description"))
		}
		gone := m.Header.Get("KV-Operation") != "" || m.Header.Get(jetstream.MarkerReasonHeader) != ""
		revision, bad := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
		key, ok := strings.CutPrefix(m.Header.Get("Nats-Subject"), b.prefix())
		if bad != nil || !ok {
			return nil, 0, fmt.Errorf("list bucket %s: no cell: %s", b.kv.Bucket(), m.Header.Get("Nats-Subject"))
		}
		got = append(got, entry{key, m.Data, revision, gone})
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = nats.ErrTimeout
	}
	return nil, 0, fmt.Errorf("list bucket %s: %w", b.kv.Bucket(), err)
}
