package exporter

import "testing"

// TestNotNullIsWhatHolds: the manifest calls a column not_null where no row can have NULL. PostgreSQL 18 also marks a column
// whose NOT NULL was never checked for the rows that are there.
func TestNotNullIsWhatHolds(t *testing.T) {
	t.Parallel()
	tn := newTenant(t, "CREATE TABLE a (id int PRIMARY KEY, checked text NOT NULL, free text, unchecked text); INSERT INTO a VALUES (1, '', NULL, NULL)")
	if tn.one("SELECT current_setting('server_version_num')::int >= 180000") == "true" {
		tn.exec("ALTER TABLE a ADD CONSTRAINT later NOT NULL unchecked NOT VALID")
	}
	_, contents := tn.export(Config{})
	want := map[string]bool{"id": true, "checked": true, "free": false, "unchecked": false}
	for _, c := range contents.Tables[0].Columns {
		if c.NotNull != want[c.Name] {
			t.Errorf("column %s: not_null %v", c.Name, c.NotNull)
		}
	}
}
