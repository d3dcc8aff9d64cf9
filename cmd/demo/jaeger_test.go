//go:build jaeger

package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestJaeger: with Jaeger the demo says where its job's trace is, that is where it is, and Jaeger ends with the demo.
func TestJaeger(t *testing.T) {
	r := start(t, "--rows=0.001", "--keep", "--jaeger=../../bin/jaeger")
	link := r.until(t, `^trace +(http\S+/trace/[0-9a-f]{32})$`)[1]
	r.until(t, `every trace +http`)
	var trace struct {
		Data []struct {
			Spans []struct {
				Name string `json:"operationName"`
			} `json:"spans"`
		} `json:"data"`
	}
	acknowledged := func() bool {
		answer, err := http.Get(strings.Replace(link, "/trace/", "/api/traces/", 1))
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if err := json.NewDecoder(answer.Body).Decode(&trace); err != nil {
			t.Fatal(err)
		}
		for _, found := range trace.Data {
			for _, s := range found.Spans {
				if s.Name == "ack" {
					return true
				}
			}
		}
		return false
	}
	for end := time.Now().Add(time.Minute); !acknowledged(); time.Sleep(100 * time.Millisecond) { // Jaeger tells nobody what has come
		if time.Now().After(end) {
			t.Fatalf("the trace does not come to its end: %+v", trace)
		}
	}
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	r.end(t, 0) // it was to be seen, and was; and nothing is left running
}
