// Package keda only says which KEDA is built here, see the Makefile's bin/keda.
package keda
