package exporter

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/snapfleet/snapfleet/contracts"
)

// rolesPage is read before the store of the tests changes the working directory.
var rolesPage, errRolesPage = os.ReadFile("../deploy/database.md")

// recipes are the blocks of SQL of the page about roles, by the comment that begins each.
func recipes(t *testing.T) map[string]string {
	t.Helper()
	must(t, errRolesPage)
	found := map[string]string{}
	for _, block := range strings.Split(string(rolesPage), "```sql\n-- ")[1:] {
		block, _, _ = strings.Cut(block, "```")
		name, sql, _ := strings.Cut(block, "\n")
		found[name] = sql
	}
	return found
}

// TestRolesOfThePage runs the page's SQL, with names of its own because roles are of the whole server, and reads two
// tenants with the logins that it makes.
func TestRolesOfThePage(t *testing.T) {
	t.Parallel()
	for recipe, user := range map[string]string{"shared": "snapfleet", "one for each tenant": "snapfleet_{tenant}"} {
		t.Run(recipe, func(t *testing.T) {
			t.Parallel()
			tn := newTenant(t)
			id := tn.db.Database[1:9]
			owner := "app"
			if recipe != "shared" {
				owner = "acme"
			}
			// acme is a schema's, a role's and a tenant's name at once: all of them are unique in the server here.
			own := func(schema string) *strings.Replacer {
				return strings.NewReplacer("snapfleet_acme", "snapfleet_"+schema+id, "ROLE snapfleet ", "ROLE snapfleet"+id+" ", "TO snapfleet;", "TO snapfleet"+id+";",
					"SCHEMA acme", "SCHEMA "+schema+id, "ROLE acme", "ROLE "+schema+id, "ROLE app", "ROLE app"+id)
			}
			sql := recipes(t)[recipe]
			if recipe == "shared" {
				tn.exec("CREATE ROLE app" + id)
			}
			for n, schema := range []string{"acme", "beta"} {
				role := owner + id
				if owner == "acme" {
					role = schema + id
					tn.exec("CREATE ROLE " + role)
				}
				tn.exec("CREATE SCHEMA "+schema+id+" AUTHORIZATION "+role, "SET ROLE "+role, "SET search_path = "+schema+id, churned, "RESET ROLE")
				recipe := own(schema).Replace(sql)
				if n > 0 && owner == "app" { // the login is there
					_, recipe, _ = strings.Cut(recipe, "\n")
				}
				tn.exec(recipe, "SET ROLE "+role, "CREATE TABLE later (x int); INSERT INTO later VALUES (1)", "RESET ROLE")
			}
			t.Cleanup(func() {
				for _, role := range []string{"snapfleet", "snapfleet_acme", "snapfleet_beta", "app", "acme", "beta"} {
					tn.conn.Exec(context.Background(), fmt.Sprintf("DROP OWNED BY %[1]s%[2]s CASCADE; DROP ROLE %[1]s%[2]s", role, id), pgx.QueryExecModeSimpleProtocol)
				}
			})
			db := tn.db.Copy()
			db.User = user
			if recipe == "shared" {
				db.User += id
			}
			for _, schema := range []string{"acme", "beta"} {
				a := attempt(schema + id)
				a.Tenant.Name = schema + id
				s, err := New(db, nil, tiny).Open(t.Context(), a)
				must(t, err)
				if n := len(s.tables[0].chunks); n < 50 || len(s.tables) != 2 {
					t.Errorf("%d chunks, %d tables", n, len(s.tables))
				}
				must(t, s.Close())
				as := s.server.db
				conn, err := pgx.ConnectConfig(t.Context(), as)
				must(t, err)
				other := map[string]string{"acme": "beta", "beta": "acme"}[schema]
				_, err = conn.Exec(t.Context(), "SELECT FROM "+other+id+".later")
				if denied := sqlstate(err) == insufficientPrivilege; denied != (recipe != "shared") {
					t.Errorf("%s reads %s: %v", as.User, other, err)
				}
				rows, err := conn.Query(t.Context(), recipes(t)["who would gain"])
				must(t, err)
				if gains, err := pgx.CollectRows(rows, pgx.RowToMap); err != nil || recipe == "shared" && len(gains) > 0 {
					t.Errorf("%v %v", gains, err)
				}
				must(t, conn.Close(t.Context()))
			}
		})
	}
}

func login(user string) *pgx.ConnConfig {
	c, err := pgx.ParseConfig("host=localhost")
	if err != nil {
		panic(err)
	}
	c.User = user
	return c
}

// TestLoginOfATenant: what may be a login of a tenant's, and what happens where its role is not there.
func TestLoginOfATenant(t *testing.T) {
	t.Parallel()
	for user, want := range map[string]string{
		"snapfleet": "snapfleet", "snapfleet_{tenant}": "snapfleet_acme-1", "{tenant}_reader": "acme-1_reader", strings.Repeat("x", 57) + "{tenant}": strings.Repeat("x", 57) + "acme-1", strings.Repeat("x", 58) + "{tenant}": "",
	} {
		db, err := loginFor(login(user), "acme-1")
		if want == "" && !isRejected(err, contracts.InvalidTenant) || want != "" && (err != nil || db.User != want) {
			t.Errorf("%s: %v, %v", user, db, err)
		}
	}
	if _, err := loginFor(login("x_{tenant}"), "a b"); err == nil {
		t.Error("a name that is no tenant's was taken")
	}
	for user, ok := range map[string]bool{"snapfleet": true, "a_{tenant}": true, "{tenant}": false, "{tenant}_{tenant}": false} {
		if err := (Config{Databases: map[string]Database{"default": {Primary: login(user)}}}).Validate(); (err == nil) != ok {
			t.Errorf("%s: %v", user, err)
		}
	}
	tn := newTenant(t, "CREATE TABLE a (x int)")
	tn.db = tn.db.Copy()
	tn.db.User = "nobody_{tenant}"
	_, err := New(tn.db, nil, Config{}).Open(t.Context(), attempt("acme"))
	_, rejected := contracts.AsRejection(err)
	if _, fault := contracts.AsWorkerFault(err); err == nil || rejected || fault || !strings.Contains(err.Error(), "this tenant's own") {
		t.Errorf("a role that is not there: %v", err)
	}
	if err := New(tn.db, nil, Config{}).Probe(t.Context(), ""); err != nil {
		t.Errorf("the worker's login: %v", err)
	}
}

// TestTenantsLoginsShareTheBound: the fleet's share of a database is that of all tenants' logins together, and what a
// stranger locks is none of it.
func TestTenantsLoginsShareTheBound(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (x int)")
	tn.as(grantAll)
	first := tn.db.User
	tn.exec("CREATE ROLE "+first+"_beta LOGIN; CREATE ROLE "+first+"_acme LOGIN; CREATE ROLE stranger"+first+" LOGIN",
		strings.ReplaceAll(grantAll, "{role}", first+"_acme"), strings.ReplaceAll(grantAll, "{role}", first+"_beta"))
	t.Cleanup(func() {
		for _, role := range []string{first + "_beta", first + "_acme", "stranger" + first} {
			tn.conn.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role, pgx.QueryExecModeSimpleProtocol)
		}
	})
	db := tn.db.Copy()
	db.User = first + "_{tenant}"
	stranger := tn.admin.Copy()
	stranger.User = "stranger" + first
	conn, err := pgx.ConnectConfig(t.Context(), stranger)
	must(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	_, err = conn.Exec(t.Context(), fmt.Sprintf("SELECT pg_advisory_lock(%d, 1)", slotClass))
	must(t, err)
	cfg := Config{FleetConnections: 1}
	s, err := New(db, nil, cfg).Open(t.Context(), attempt("acme"))
	must(t, err)
	defer s.Close()
	a := attempt("acme")
	a.Tenant.Name = "beta"
	if _, err := New(db, nil, cfg).Open(t.Context(), a); !isBusy(err) {
		t.Errorf("a second tenant's snapshot: %v", err)
	}
	must(t, s.Close())
	tn.noSessions()
	s, err = New(db, nil, cfg).Open(t.Context(), a)
	must(t, err)
	must(t, s.Close())
}
