package uploader

import (
	"fmt"
	"net/url"
	"time"
)

// Config is the manual of an [Uploader]. The zero value of a field means its default.
type Config struct {
	// PartBytes is the size of every part but a volume's last, in bytes: a multiple of 512, at least
	// 5 MiB for AWS. Default 16 MiB: 10,000 parts make 156 GiB, three times the default volume, and a
	// part takes seconds, so little is lost when one has to be sent again.
	PartBytes int
	// Buffers is how many part buffers a delivery owns, at least 3: one is being filled, one may be held
	// back for the tar header that it owes, the others are under way. A delivery's memory is
	// Buffers x PartBytes. Default 5, 80 MiB, so that a worker with two jobs stays below 300 MiB.
	Buffers int
	// MaxParts is the store's limit for one object. Default 10,000, AWS's own; some other stores take
	// 1,000. A volume never grows beyond MaxParts x PartBytes.
	MaxParts int

	// CheckpointEvery is how often a delivery of attachments keeps how far it has come, and so how much work a
	// worker that dies loses. It does so at the end of each volume, too. Default 10 s.
	CheckpointEvery time.Duration

	// AllowEndpoints are the S3 endpoints other than AWS that a tenant's record may name, exactly as it
	// names them: "https://s3.example.com". Default none, so that no record can make a worker talk to an
	// address of somebody's choice.
	AllowEndpoints []string
	// NoChecksum leaves CRC64NVME out of requests, for stores that do not know it. Sizes are still
	// compared, and the manifest still holds the checksums. Default false.
	NoChecksum bool

	// SessionDuration is how long assumed credentials live. Default 1 h, the most that AWS allows a role
	// that was itself assumed. They are refreshed in time, however long a delivery takes.
	SessionDuration time.Duration
	// TrustCheck is how often a role is asked to let us in without its external ID, which it must
	// refuse: a role that does not would let anybody in who persuades us. Default 24 h for each role;
	// negative: never.
	TrustCheck time.Duration

	// RequestTimeout bounds one try of one request. Default 5 min: a part at half a megabit per second.
	// Completing a volume gets 10 s more for each GiB, because some stores copy then.
	RequestTimeout time.Duration
	// RetryFirst and RetryMost bound the wait between two tries of a request, which doubles each time,
	// with jitter. Default 250 ms and 30 s.
	RetryFirst, RetryMost time.Duration
	// RetryFor is how long one request is tried, in all. Default 10 min: starting the tables again costs
	// more than that.
	RetryFor time.Duration

	// CheckTimeout bounds a [Uploader.Check], for which somebody is waiting, but for up to 10 s more in which what it has
	// written is removed. One request of it is tried for a fifth of that. Default 30 s.
	CheckTimeout time.Duration
}

func (c Config) withDefaults() Config {
	or := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	orTime := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	or(&c.PartBytes, 16<<20)
	or(&c.Buffers, 5)
	or(&c.MaxParts, 10_000)
	orTime(&c.CheckpointEvery, 10*time.Second)
	orTime(&c.SessionDuration, time.Hour)
	orTime(&c.TrustCheck, 24*time.Hour)
	orTime(&c.RequestTimeout, 5*time.Minute)
	orTime(&c.RetryFirst, 250*time.Millisecond)
	orTime(&c.RetryMost, 30*time.Second)
	orTime(&c.RetryFor, 10*time.Minute)
	orTime(&c.CheckTimeout, 30*time.Second)
	return c
}

// Validate names the first field that cannot work. [New] and [NewFolder] panic with what it says.
func (c Config) Validate() error {
	c = c.withDefaults()
	switch {
	case c.PartBytes < block || c.PartBytes%block != 0:
		return fmt.Errorf("uploader: PartBytes %d is not a multiple of %d", c.PartBytes, block)
	case c.Buffers < 3:
		return fmt.Errorf("uploader: Buffers %d is less than 3", c.Buffers)
	case c.MaxParts < 1 || c.MaxParts > 10_000:
		return fmt.Errorf("uploader: MaxParts %d is not between 1 and 10000", c.MaxParts)
	case c.CheckpointEvery < 0:
		return fmt.Errorf("uploader: CheckpointEvery %s is negative", c.CheckpointEvery)
	case c.SessionDuration < 15*time.Minute || c.SessionDuration > 12*time.Hour: // what STS gives
		return fmt.Errorf("uploader: SessionDuration %s is not between 15m and 12h", c.SessionDuration)
	case c.RequestTimeout < 0 || c.RetryFirst < 0 || c.RetryMost < c.RetryFirst || c.RetryFor < 0 || c.CheckTimeout < 0:
		return fmt.Errorf("uploader: a timeout is negative, or RetryMost is less than RetryFirst")
	}
	for _, e := range c.AllowEndpoints {
		if u, err := url.Parse(e); err != nil || u.Host == "" || u.Scheme != "https" && !loopback(u) {
			return fmt.Errorf("uploader: AllowEndpoints %.200q is not https://host[:port]", e)
		}
	}
	return nil
}

// maxVolume is the size of an object that just fits into MaxParts.
func (c Config) maxVolume() int64 { return int64(c.MaxParts) * int64(c.PartBytes) }
