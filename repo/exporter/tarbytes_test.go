package exporter

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"
	"time"
)

// The size that is promised for attachments is never less than what a tar of them takes, and seldom more.
func TestTarBytes(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"1/a", strings.Repeat("x", 100), strings.Repeat("x", 101), "1/Zeichnung für Größe.pdf", strings.Repeat("ö", 150), "7/" + strings.Repeat("日", 60)} {
		for _, size := range []int64{0, 1, 511, 512, 513, 100_000} {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Size: size, Mode: 0o644, ModTime: time.Unix(1, 0), Format: tar.FormatPAX})
			if err == nil {
				_, err = w.Write(make([]byte, size))
			}
			if err == nil {
				err = w.Flush()
			}
			if got, took := tarBytes(path, size), int64(b.Len()); err != nil || got < took || got > took+tarBlock {
				t.Errorf("%q, %d bytes: %d, a tar takes %d (%v)", path, size, got, took, err)
			}
		}
	}
}
