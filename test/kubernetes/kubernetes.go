// Package kubernetes only says which Kubernetes and etcd are built here, see the Makefile's bin/kube.
package kubernetes
