//go:build !linux

package world

import "syscall"

// dieWithParent: only Linux can.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}
