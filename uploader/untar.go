package uploader

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxExtended is the largest extended header that is read, in bytes. The longest path that a delivery has takes some
// 320.
const maxExtended = 4096

// untar reads a .tar as this package writes it, and nothing else: plain files of mode 0644 without an owner, each behind
// its one header, which is byte for byte the one that [header] makes. What other readers would unpack differently
// (links, devices, sparse files, long names of GNU, extended attributes, rights) is an error of type [alien].
// Memory is a few blocks, whatever the archive holds.
type untar struct {
	in   io.Reader
	left int64 // content of the present member that was not read
	pad  int64 // zeros behind it
}

// alien is a member that no delivery has.
type alien struct{ name, what string }

func (a alien) Error() string { return fmt.Sprintf("member %.200q: %s", a.name, a.what) }

// next goes to the next member. At the end of the archive, and where the input ends in its place, the error is io.EOF.
func (u *untar) next() (name string, size int64, err error) {
	if _, err := io.Copy(io.Discard, u); err != nil {
		return "", 0, err
	}
	if err := u.padding(); err != nil {
		return "", 0, err
	}
	var first [block]byte
	if _, err := io.ReadFull(u.in, first[:]); err != nil {
		return "", 0, early(err)
	}
	if bytes.Equal(first[:], zeros[:block]) {
		return "", 0, u.end()
	}
	h, err := u.header(first[:])
	if err != nil {
		return "", 0, err
	}
	u.left, u.pad = h.Size, padding(h.Size)
	return h.Name, h.Size, nil
}

// Read reads content of the present member.
func (u *untar) Read(p []byte) (int, error) {
	if u.left == 0 {
		return 0, io.EOF
	}
	n, err := u.in.Read(p[:min(int64(len(p)), u.left)])
	u.left -= int64(n)
	if errors.Is(err, io.EOF) && u.left > 0 {
		err = errEarly
	} else if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

var errEarly = errors.New("it ends too early")

// early is an error of reading a block: that the input ends between two blocks is for the caller to judge.
func early(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errEarly
	}
	return err
}

func (u *untar) padding() error {
	var pad [block]byte
	if _, err := io.ReadFull(u.in, pad[:u.pad]); errors.Is(err, io.EOF) {
		return errEarly
	} else if err != nil {
		return early(err)
	}
	if !bytes.Equal(pad[:u.pad], zeros[:u.pad]) {
		return errors.New("something is hidden between two files")
	}
	u.pad = 0
	return nil
}

// end reads the second of the two blocks that end an archive.
func (u *untar) end() error {
	var second [block]byte
	if _, err := io.ReadFull(u.in, second[:]); err != nil {
		return early(err)
	}
	if !bytes.Equal(second[:], zeros[:block]) {
		return errors.New("something follows the first of the two blocks that end it")
	}
	return io.EOF
}

// header reads a header, of which first is the first block.
func (u *untar) header(first []byte) (*tar.Header, error) {
	raw := first
	name := strings.TrimRight(string(first[:100]), "\x00")
	if first[typeflag] == tar.TypeXHeader {
		n, err := strconv.ParseInt(strings.TrimRight(string(first[124:136]), "\x00 "), 8, 64)
		if err != nil || n < 1 || n > maxExtended {
			return nil, alien{name, "its extended header has no size that snapfleet writes"}
		}
		rest := make([]byte, n+padding(n)+block)
		if _, err := io.ReadFull(u.in, rest); err != nil {
			return nil, errEarly
		}
		raw = append(bytes.Clone(first), rest...)
	}
	last := raw[len(raw)-block:]
	if kind := last[typeflag]; kind != tar.TypeReg {
		return nil, alien{name, notPlain(kind)}
	}
	if bytes.Contains(raw[:len(raw)-block], []byte("GNU.sparse.")) {
		return nil, alien{name, "it is a sparse file"}
	}
	h, err := tar.NewReader(bytes.NewReader(raw)).Next()
	if err != nil {
		return nil, fmt.Errorf("the header of %.200q is damaged: %w", name, err)
	}
	format := tar.FormatPAX
	if string(last[257:265]) == "ustar  \x00" {
		format = tar.FormatGNU
	}
	if want, err := header(h.Name, h.Size, h.ModTime, format); err != nil || !bytes.Equal(raw, want) {
		return nil, alien{h.Name, foreignHeader(h)}
	}
	return h, nil
}

// typeflag is where a header says of what type the member is.
const typeflag = 156

// notPlain says what a member is that is no plain file.
func notPlain(kind byte) string {
	what := map[byte]string{
		tar.TypeLink: "a hard link", tar.TypeSymlink: "a symbolic link", tar.TypeChar: "a device", tar.TypeBlock: "a device",
		tar.TypeDir: "a folder", tar.TypeFifo: "a pipe", tar.TypeGNUSparse: "a sparse file", tar.TypeGNULongName: "a long name of GNU tar",
		tar.TypeGNULongLink: "a long name of GNU tar", tar.TypeXGlobalHeader: "a header for all members", tar.TypeXHeader: "a second extended header",
	}[kind]
	if what == "" {
		what = fmt.Sprintf("of the unknown type %q", kind)
	}
	return "it is no plain file: it is " + what
}

// foreignHeader says what is in a plain file's header that this package never writes.
func foreignHeader(h *tar.Header) string {
	switch {
	case h.Mode != 0o644:
		return fmt.Sprintf("its mode is %04o, not 0644", h.Mode)
	case h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "":
		return "it has an owner"
	case h.Linkname != "":
		return "it links to another file"
	}
	for key := range h.PAXRecords {
		if key != "path" && key != "size" && key != "mtime" {
			return fmt.Sprintf("it has the extended attribute %.80q", key)
		}
	}
	return "its header is not as snapfleet writes it"
}
