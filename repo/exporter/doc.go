// Package exporter turns a tenant into members: every table of its PostgreSQL schema as of one instant, and
// the files that its attachment table names. It is the only package that knows PostgreSQL and the store that
// attachments come from.
//
//	Open         locks every table, then takes the instant, then lets sibling connections into it
//	Tables       a sequential face over tables that are read and compressed in chunks, side by side
//	Release      ends the database transaction; nothing of the database is needed from here on
//	Attachments  files of known sizes, fetched ahead, in order
//	Contents     what all that was, for the manifest
//
// A failed snapshot is thrown away and tried again from the start, by the caller: half a table is never
// resumed, because only the one transaction could have told what the other half looked like. An error that
// carries a [contracts.Rejection] is one that no second try would cure.
package exporter
