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
// # Code of a tenant's
//
// A tenant may own its tables, and our login may read every tenant's. So no code of a tenant's runs with our rights:
//
//   - Names come from the catalog and are quoted, the search_path is empty, and no view is read.
//   - To plan a query is to evaluate constant expressions of the relation's indexes, statistics and partition key. A table
//     where such an expression calls a function that is not compiled is copied without a query: in one piece, and without
//     its generated columns, as the manifest says.
//   - An owner may make such an index at any moment, and no lock that a reader may take keeps them from it. So every
//     table is copied in that way whose owner would gain: who may not SELECT from all that our login may SELECT from. That
//     is slower for large tables. Where each tenant is read by a login of its own, or where one role owns all tenants'
//     tables, no owner gains: see deploy/database.md.
//   - The server makes no JSON of a type whose owner may give it a cast to json. Its text is sent, and JSON is made here.
//   - The attachment table of the default query is copied in the same way. An operator's own query has to be planned: it is
//     refused where it names a view, a table with such an expression, a type with such a cast, or a function of the
//     tenant's. The texts of its errors are left out.
//
// What remains, where one login reads the tables of owners who would gain, and the operator has a query of their own: an
// owner who makes statistics between our look at the tables and the query, a few milliseconds later, has a function run in
// our read-only transaction. An index that is made there is noticed, and fails the attempt. A login for each tenant leaves
// nothing to be gained.
package exporter
