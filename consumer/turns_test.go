package consumer

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestEach looks at some things at once, at all of them whatever goes wrong with others, and tells of the first few only.
func TestEach(t *testing.T) {
	t.Parallel()
	things := make([]int, 3*abreast)
	for i := range things {
		things[i] = i
	}
	synctest.Test(t, func(t *testing.T) {
		began, done := time.Now(), make([]bool, len(things))
		err := each(t.Context(), things, func(_ context.Context, i int) error {
			time.Sleep(time.Second) // virtual: an answer
			done[i] = true
			if i%2 == 1 {
				return fmt.Errorf("no %d", i)
			}
			return nil
		})
		for i, ok := range done {
			if !ok {
				t.Errorf("%d was not looked at", i)
			}
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("it took %s", took)
		}
		if want := "no 1\nno 3\nno 5\nno 7\nno 9\nand 7 more"; err == nil || err.Error() != want {
			t.Errorf("the error is %q, want %q", err, want)
		}
	})
}

// TestEachEnds with its context: what is under way is waited for, nothing else is begun, and that is no error.
func TestEachEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		began, looked := time.Now(), make([]bool, 3*abreast)
		things := make([]int, len(looked))
		for i := range things {
			things[i] = i
		}
		err := each(ctx, things, func(_ context.Context, i int) error {
			time.Sleep(time.Second) // virtual: an answer
			looked[i] = true
			return nil
		})
		if n := strings.Count(fmt.Sprint(looked), "true"); n != 2*abreast || err != nil || time.Since(began) != 2*time.Second {
			t.Errorf("%d looked at after %s: %v", n, time.Since(began), err)
		}
	})
}
