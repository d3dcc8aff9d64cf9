package model

import (
	"testing"
	"time"
)

func TestProtocol(t *testing.T) {
	for _, v := range Protocols {
		t.Run(v.Name, func(t *testing.T) {
			began := time.Now()
			r := Check(v)
			t.Logf("%d states, %d transitions in %v", r.States, r.Transitions, time.Since(began).Round(time.Millisecond))
			if r.Broken != Holds {
				t.Error(r)
			}
		})
	}
}

// A rule whose absence breaks nothing is either needless or not modelled.
func TestMutants(t *testing.T) {
	for _, m := range Mutants {
		t.Run(m.Name, func(t *testing.T) {
			r := Check(m.Variant)
			if r.Broken != m.Breaks {
				t.Errorf("broken: %v\nwant:   %v", r, m.Breaks)
			}
			t.Log(r)
		})
	}
}
