package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapfleet/snapfleet/contracts"
)

// fileOf writes a file that only we can read.
func fileOf(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDatabasesThatCannotBeMeant: a worker with a bad file does not start. It says what is wrong and where, and nothing of
// the logins that are in it.
func TestDatabasesThatCannotBeMeant(t *testing.T) {
	t.Parallel()
	const good = "postgres://u:" + secret + "@127.0.0.1:1/db"
	dir := t.TempDir()
	fileOf(t, dir, "empty", "\n")
	fileOf(t, dir, "good", good+"\n")
	for name, c := range map[string]struct {
		text string
		env  string
		says []string
	}{
		"no JSON":               {good, "", []string{"not JSON"}},
		"no object":             {`["` + good + `"]`, "", []string{"not the expected JSON"}},
		"cut off":               {`{"eu-1": {"url": "` + good, "", []string{"not JSON"}},
		"a URL for a database":  {`{"eu-1": "` + good + `"}`, "", []string{"not the expected JSON"}},
		"a login as a name":     {`{"` + good + `": {"url": "x"}}`, "", []string{"unknown field"}},
		"a keyword as a name":   {`{"host=h password=` + secret + `": {"url": "x"}}`, "", []string{"unknown field"}},
		"name in capitals":      {`{"EU": {"url": "` + good + `"}}`, "", []string{"of a-z 0-9 _ -"}},
		"name that is too long": {`{"` + strings.Repeat("x", 33) + `": {"url": "` + good + `"}}`, "", []string{"is no name of 1 to 32"}},
		"unknown field":         {`{"eu-1": {"uri": "` + good + `"}}`, "", []string{`unknown field "uri"`}},
		"given twice":           {`{"eu-1": {"url": "` + good + `"}, "eu-1": {"url": "` + good + `"}}`, "", []string{`"eu-1" is given twice`}},
		"no URL":                {`{"eu-1": {"connections": 3}}`, "", []string{`database "eu-1": neither url nor url_file is given`}},
		"null":                  {`{"eu-1": null}`, "", []string{`database "eu-1": neither url nor url_file is given`}},
		"a replica alone":       {`{"eu-1": {"replica_url": "` + good + `"}}`, "", []string{"neither url nor url_file is given"}},
		"both":                  {`{"eu-1": {"url": "` + good + `", "url_file": "good"}}`, "", []string{"both url and url_file are given"}},
		"no such file":          {`{"eu-1": {"url_file": "nowhere"}}`, "", []string{"url_file: ", "nowhere: no such file"}},
		"empty file":            {`{"eu-1": {"url_file": "empty"}}`, "", []string{"empty is empty"}},
		"a folder":              {`{"eu-1": {"url_file": "."}}`, "", []string{"is no file"}},
		"negative":              {`{"eu-1": {"url": "` + good + `", "connections": -1}}`, "", []string{`database "eu-1": connections is -1`}},
		"a fraction":            {`{"eu-1": {"url": "` + good + `", "connections": 1.5}}`, "", []string{"not the expected JSON"}},
		"no such mode":          {`{"eu-1": {"url": "` + good + `?sslmode=perhaps"}}`, "", []string{`database "eu-1": url: `, "sslmode"}},
		"odd password":          {`{"eu-1": {"url": "postgres://u:` + secret + `/x@h/db"}}`, "", []string{`database "eu-1": url: `, "%2F"}},
		"odd password, spaces":  {`{"eu-1": {"url": "postgres://u:x ` + secret + `@h/db"}}`, "", []string{"special characters of the password"}},
		"odd replica":           {`{"eu-1": {"url": "` + good + `", "replica_url": "postgres://u:` + secret + `/x@h/db"}}`, "", []string{"replica_url: "}},
		"two defaults":          {`{"default": {"url": "` + good + `"}}`, "SNAPFLEET_DATABASE_URL=" + good, []string{`has a database "default"`, "--database-url"}},
		"a replica of none":     {`{"default": {"url": "` + good + `"}}`, "SNAPFLEET_REPLICA_URL=" + good, []string{`has a database "default"`, "--replica-url"}},
	} {
		file := fileOf(t, dir, strings.ReplaceAll(name, " ", "-")+".json", c.text)
		snapfleet(t, []string{c.env, "SNAPFLEET_DATABASES=" + file}, "worker", "--listen=").want(t, exitUsage, append(c.says, "--databases")...)
	}
	snapfleet(t, nil, "worker", "--listen=", "--databases="+filepath.Join(dir, "none.json")).want(t, exitUsage, "none.json: no such file", "fix:")
	snapfleet(t, nil, "worker", "--listen=", "--replica-url=postgres://u:"+secret+"/x@h/db").want(t, exitUsage, "--replica-url: ")
	snapfleet(t, nil, "worker", "--listen=", "--database-url=postgres://u:"+secret+"/x@h/db").want(t, exitUsage, "--database-url", "special characters")
}

// TestDatabasesAreReadFromTheFile: the file is what the manual shows, and who else can read it is told of.
func TestDatabasesAreReadFromTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fileOf(t, dir, "eu-2", "postgres://u:"+secret+"@db3/app\n")
	path := fileOf(t, dir, "databases.json", `{"eu-1": {"url": "postgres://u:`+secret+`@db2/app", "replica_url": "host=db2-ro password=`+secret+`", "connections": 10},
		"eu-2": {"url_file": "eu-2", "connections": 0}}`)
	all, exposed, err := databasesFlags{Databases: path}.databases(databaseFlags{DatabaseURL: "postgres://db1/app"})
	if err != nil {
		t.Fatal(err)
	}
	one, two := all["eu-1"], all["eu-2"]
	if len(all) != 3 || all[contracts.DefaultDatabase].Primary.Host != "db1" || one.Primary.Host != "db2" || one.Replica.Host != "db2-ro" || one.FleetConnections != 10 ||
		two.Primary.Host != "db3" || two.Primary.Password != secret || two.Replica != nil || two.FleetConnections != -1 || len(exposed) != 0 {
		t.Errorf("%+v, exposed: %q", all, exposed)
	}
	for _, name := range []string{"databases.json", "eu-2"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := snapfleet(t, []string{"SNAPFLEET_DATABASES=" + path}, "worker", "--listen=", "--log-format=json") // there is no broker
	for _, name := range []string{"databases.json", "eu-2"} {
		r.want(t, exitUnreachable, `"file":"`+filepath.Join(dir, name)+`"`, `"message":"other users of this machine can read a file with a database login in it"`)
	}
	_, shown, _ := strings.Cut(aboutDatabases, "\n\n")
	shown, _, _ = strings.Cut(shown, "\n\n")
	var entries map[string]databaseEntry
	if err := contracts.DecodeStrict([]byte(shown), &entries); err != nil || !json.Valid([]byte(shown)) || len(entries) != 3 || *entries["eu-1"].Connections != 10 {
		t.Errorf("the manual shows %s\n%v", shown, err)
	}
}

// TestTenantInTheUser: {tenant} may be in the user of a URL or of a key=value string, and nowhere else.
func TestTenantInTheUser(t *testing.T) {
	t.Parallel()
	for given, user := range map[string]string{
		"postgres://snapfleet_{tenant}:p%40ss@db/app": "snapfleet_{tenant}", "postgres://snapfleet_%7Btenant%7D@db/app": "snapfleet_{tenant}",
		"host=db user=snapfleet_{tenant} dbname=app": "snapfleet_{tenant}", "postgres://{tenant}@db/app": "", "postgres://a_{tenant}@db/{tenant}": "", "postgres://a@{tenant}/app": "",
		"host=db user=a dbname={tenant}": "",
	} {
		cfg, err := parseDatabase(given)
		if user == "" && err == nil || user != "" && (err != nil || cfg.User != user) {
			t.Errorf("%s: %v, %v", given, cfg, err)
		}
	}
}
