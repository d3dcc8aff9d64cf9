package world

import "syscall"

// dieWithParent makes the child end when we do, however we end: SIGQUIT makes a postmaster take its
// backends along.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }
