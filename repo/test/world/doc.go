// Package world starts the real servers that snapfleet works with, for tests and the demo: a throw-away
// PostgreSQL from the system's binaries and a nats-server with JetStream in this process. Every server has
// its own folder and a free port of 127.0.0.1, so any number of them run side by side.
package world
