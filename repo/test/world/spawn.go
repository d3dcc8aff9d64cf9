package world

import (
	"os/exec"
	"runtime"
	"syscall"
)

// Spawn starts a process that signals from the terminal do not reach, and that on Linux gets the signal
// orphaned when this process ends, however it ends. The channel gives what Wait returned, once, and is
// closed.
func Spawn(cmd *exec.Cmd, orphaned syscall.Signal) (<-chan error, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	dieWithParent(cmd.SysProcAttr, orphaned)
	started, done := make(chan error), make(chan error, 1)
	go func() {
		// The kernel sends that signal when the thread ends that was the parent: keep it for ourselves.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
		}
		close(done)
	}()
	return done, <-started
}
