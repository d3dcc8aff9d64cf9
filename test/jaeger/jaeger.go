// Package jaeger only says which Jaeger is built here: `go build -C test/jaeger -o ../../bin/jaeger
// github.com/jaegertracing/jaeger/cmd/jaeger`. Module v1.76.0 is Jaeger 2.13.
package jaeger
