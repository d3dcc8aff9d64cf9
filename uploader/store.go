package uploader

import (
	"context"
	"errors"

	"github.com/snapfleet/snapfleet/contracts"
)

// store is one job's folder at the destination: in a customer's bucket ([bucket]) or on a disk ([folder]).
// Names are names within that folder; nothing outside it can be reached. What a method has reported done
// is durable. Methods retry what a retry may cure, are safe for concurrent use, and return a
// [contracts.Rejection], one of the errors below, or an error that another attempt may not meet.
type store interface {
	// preflight proves that the destination will take a delivery, and aborts what others left, but not the
	// uploads to keep.
	preflight(ctx context.Context, keep []contracts.Upload) error

	// create starts an upload. Nothing of it is visible before complete.
	create(ctx context.Context, name string) (id string, err error)
	// put uploads a part, which may be repeated. The body is not kept.
	put(ctx context.Context, u contracts.Upload, number int, offset int64, body []byte, crc uint64) (contracts.Part, error)
	// complete makes the upload visible, if its size and checksum are as the receipt says: errGone when
	// there is no such upload (any more), errTaken when there is an object of that name already, unless
	// that is the one whose tag is given as over.
	complete(ctx context.Context, u contracts.Upload, over string) error
	// abort ends an upload and returns once nothing of it is left.
	abort(ctx context.Context, u contracts.Upload) error
	// parts lists the parts of an upload, all of partBytes but the last: errGone, or errAbsent, when there is
	// no such upload.
	parts(ctx context.Context, u contracts.Upload, partBytes int) ([]arrived, error)
	// uploads lists the uploads that are under way in the folder, whoever began them.
	uploads(ctx context.Context) ([]contracts.Upload, error)

	// list names the visible objects of the folder.
	list(ctx context.Context) ([]string, error)
	// stat describes a visible object; nil when there is none.
	stat(ctx context.Context, name string) (*stored, error)
	// read returns a visible object; nil when there is none, errTooLarge when it has more bytes than most.
	read(ctx context.Context, name string, most int) ([]byte, error)
	// delivered returns the delivery that is in the folder, proven; nil when there is no manifest. A manifest that does
	// not prove a whole delivery of this job is a Rejection of DestinationTaken.
	delivered(ctx context.Context) (*contracts.FoundDelivery, error)
	// write makes a small object visible in one step: errTaken when there is one already.
	write(ctx context.Context, name string, body []byte) error
	// remove deletes a visible object. It is used for what a lost attempt of this job left, only.
	remove(ctx context.Context, name string) error

	// handOn is called when a verb has succeeded and is through with the store: the attempt's next verb, should it
	// come soon, need not find its way to the folder anew.
	handOn()
}

// arrived is a part as the store has it.
type arrived struct {
	number int
	size   int64
	tag    string
	crc    string // base64, empty when the store cannot tell
}

// stored is a visible object. Empty fields are what the store cannot tell.
type stored struct {
	size    int64
	crc     string // of the whole object, base64
	tag     string // changes whenever the content does
	job     string // "tenant/job/" that wrote it, "" for a stranger's
	attempt string // contracts.Attempt.ID that wrote it
	expires string // the day from which on it may be deleted, where a tag says so
	mute    bool   // the store keeps no job and attempt
	sha256  string // hex, of a manifest, as its metadata says
	mac     string // of a manifest
}

// What a store may answer. They never leave the package by themselves.
var (
	errGone  = errors.New("no such upload")
	errTaken = errors.New("there is an object of that name")
	// errTooLarge says that an object has more bytes than may be read.
	errTooLarge = errors.New("the object is larger than it may be")
)
