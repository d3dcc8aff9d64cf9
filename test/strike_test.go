package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
	"github.com/snapfleet/snapfleet/test/world"
)

// placed is a fault in place, at a store or on a wire.
type placed struct {
	reached <-chan struct{}
	hits    func() int
	via     func() string // whose moment it was, where that is known
	remove  func()
}

// place puts the fault of a blow in place. What strikes acts until hold is closed.
func (l *lane) place(job string, b blow, hold <-chan struct{}) placed {
	fault := b.kind.fault
	if b.kind.strike != nil {
		fault.Times, fault.Hold = 1, hold
	}
	if b.at.says == nil {
		fault.Match, fault.Skip = b.at.match(l, job), b.at.skip
		i := cloud.Inject(fault)
		return placed{i.Reached, i.Hits, func() string { return "" }, i.Remove}
	}
	i := l.wire.Inject(world.Fault{
		Match: b.at.says(l, job), Skip: b.at.skip, Times: 1, Apply: fault.Apply, Delay: fault.Delay, Hold: fault.Hold, Lost: fault.Reply.Lost,
	})
	return placed{i.Reached, i.Hits, i.Via, i.Remove}
}

// struck is a blow that is under way.
type struck struct {
	placed
	blow
	loose bool
	over  chan error
}

// strike puts a blow in place.
func (l *lane) strike(ctx context.Context, job string, b blow, loose bool) *struck {
	hold := make(chan struct{})
	s := &struck{placed: l.place(job, b, hold), blow: b, loose: loose, over: make(chan error, 1)}
	if b.kind.strike == nil {
		close(hold)
		s.over <- nil
		return s
	}
	go func() {
		s.over <- func() error {
			defer close(hold)
			select {
			case <-s.reached:
			case <-ctx.Done():
			}
			if s.hits() == 0 {
				return nil
			}
			// Not to be stopped halfway when the job ends: what is half restarted would disturb the next one.
			err := b.kind.strike(l.t.Context(), l, job, s.via())
			if gone := errors.Is(err, pgx.ErrNoRows) || errors.Is(err, os.ErrProcessDone); err == nil || ctx.Err() != nil || loose && gone {
				return nil // also when the other blow was first
			}
			return fmt.Errorf("%s: %w", b.kind.name, err)
		}()
		if b.kind.mend != nil && b.kind.wait > 0 {
			select {
			case <-time.After(b.kind.wait):
			case <-ctx.Done():
			}
			_ = b.kind.mend(l) // it is done again at the end
		}
	}()
	return s
}

// await waits for a moment that comes after the job's end.
func (s *struck) await() {
	if !s.at.late || s.loose {
		return
	}
	select {
	case <-s.reached:
	case <-time.After(30 * time.Second):
	}
}

// end takes the blow away, and says whether it went wrong.
func (s *struck) end() error {
	hits := s.hits()
	s.remove()
	err := <-s.over
	if err == nil && hits == 0 && !s.loose {
		err = fmt.Errorf("the moment %s never came", s.at.name)
	}
	return err
}

// victim is the worker whose moment it is: who, or else whoever works on the job, or has just been given it.
func (l *lane) victim(ctx context.Context, job, who string) (*process, string, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ; ctx.Err() == nil; <-tick.C {
		name := who
		if name == "" {
			if s, err := l.jobs.Status(ctx, l.tenant, job); err == nil {
				name = s.Worker
			}
		}
		if name == "" {
			name = l.witness.puller()
		}
		if p := l.workers()[name]; p != nil {
			return p, name, nil
		}
	}
	return nil, "", errors.New("nobody has the job")
}

// strikeKill ends the worker. Somebody new comes in its place.
func strikeKill(ctx context.Context, l *lane, job, who string) error {
	p, name, err := l.victim(ctx, job, who)
	if err != nil {
		return err
	}
	_ = p.stop(syscall.SIGKILL) // says that it was killed
	l.leaves(name, p)
	return nil
}

// strikeTerm asks the worker to end, and waits until it has. Its patience is shorter than what it has to do.
func strikeTerm(ctx context.Context, l *lane, job, who string) error {
	p, name, err := l.victim(ctx, job, who)
	if err != nil {
		return err
	}
	_ = p.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.over:
		p.over <- err
	case <-time.After(time.Minute):
		return errors.New("it goes on for a minute")
	}
	l.leaves(name, p)
	return nil
}

// strikeStop stops the worker for longer than others need to think that it is dead. What it was about to say arrives
// when it wakes up, too.
func strikeStop(ctx context.Context, l *lane, job, who string) error {
	p, _, err := l.victim(ctx, job, who)
	if err != nil {
		return err
	}
	if err := p.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	select {
	case <-time.After(tooLong):
	case <-ctx.Done():
	}
	return p.Process.Signal(syscall.SIGCONT)
}

func expireSessions(_ context.Context, l *lane, _, _ string) error {
	cloud.ExpireSessions(l.role)
	return nil
}

func strikeConsumer(ctx context.Context, l *lane, _, _ string) error {
	if err := l.js.DeleteConsumer(ctx, contracts.RequestStream, contracts.WorkersName); err != nil {
		return err
	}
	return l.setUp()
}

func strikeRecord(ctx context.Context, l *lane, job, _ string) error {
	kv, err := l.js.KeyValue(ctx, contracts.JobBucket)
	if err != nil {
		return err
	}
	return kv.Purge(ctx, l.tenant+"."+job)
}

// strikeUploads aborts every upload, as a customer's lifecycle rule would.
func strikeUploads(ctx context.Context, l *lane, _, _ string) error {
	out, err := cloud.Admin().ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &l.bucket})
	if err != nil {
		return err
	}
	for _, u := range out.Uploads {
		_, err = cloud.Admin().AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &l.bucket, Key: u.Key, UploadId: u.UploadId})
		if gone := (*types.NoSuchUpload)(nil); err != nil && !errors.As(err, &gone) { // a worker was faster
			return err
		}
	}
	return nil
}

func strikeTrust(_ context.Context, l *lane, _, _ string) error {
	cloud.RemoveRole(l.role)
	return nil
}

func (l *lane) mendTrust() error {
	l.grant(l.externalID)
	return nil
}

// changed is what an attachment is changed to.
var changed = []byte("changed")

// strikeSource removes the attachments, or changes them.
func strikeSource(body []byte) func(context.Context, *lane, string, string) error {
	return func(ctx context.Context, l *lane, _, _ string) error {
		for name := range l.files() {
			var err error
			if body != nil {
				_, err = l.store(ctx, name, body)
			} else {
				_, err = cloud.Admin().DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &l.source, Key: aws.String(l.tenant + "/" + name)})
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

func (l *lane) mendSource() error {
	for name, body := range l.files() {
		if _, err := l.store(l.t.Context(), name, body); err != nil {
			return err
		}
	}
	return nil
}

// strikeSession ends the oldest of the exporter's sessions, which holds the instant, or the youngest.
func strikeSession(order string) func(context.Context, *lane, string, string) error {
	return func(ctx context.Context, l *lane, _, _ string) error {
		return l.query(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()
			AND application_name LIKE 'snapfleet/%' ORDER BY backend_start `+order+` LIMIT 1`)
	}
}

// query runs a query that must give true.
func (l *lane) query(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, l.database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it has served
	var ok bool
	if err := conn.QueryRow(ctx, sql).Scan(&ok); err != nil {
		return err
	}
	if !ok {
		return errors.New("not so")
	}
	return nil
}
