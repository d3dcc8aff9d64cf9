package contracts_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

// What is wrong with a worker names part, cause and fix, is found in a chain, and accuses no customer.
func TestWorkerFault(t *testing.T) {
	for _, part := range contracts.FaultParts() {
		err := fmt.Errorf("open: %w", contracts.Fault(part, "eu-1", "what happened"))
		f, ok := contracts.AsWorkerFault(err)
		if !ok || f.Part != part {
			t.Fatalf("%s: not found in %v", part, err)
		}
		a := f.Advice()
		if a.Cause == "" || a.Fix == "" || a.Customer {
			t.Errorf("%s: advice %+v", part, a)
		}
		for _, want := range []string{"what happened", "eu-1", a.Cause, a.Fix} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", part, err, want)
			}
		}
		if _, rejected := contracts.AsRejection(err); rejected {
			t.Errorf("%s: a fault is a rejection", part)
		}
	}
	if _, ok := contracts.AsWorkerFault(errors.New("else")); ok {
		t.Error("any error is a fault")
	}
}
