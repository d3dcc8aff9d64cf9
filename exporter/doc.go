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
// carries a [contracts.Rejection] is one that no second try would cure, and one with a method Busy() bool that says
// true tells that the database has no room now: all of the fleet's share of it is in use.
//
// A tenant may be whoever made its tables, and our role may read every tenant's. So no code of a tenant's runs: no
// view is read, names come from the catalog and are quoted, the search_path is empty, and a table whose indexes or
// statistics call functions, other than a superuser's, is copied without a query: in one piece, and without its
// generated columns, as the manifest says. No cast of a tenant's makes JSON of a value. One gap is left: whoever makes
// such an index while his tables are being read has its function run within our read-only transaction.
package exporter
