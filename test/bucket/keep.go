package bucket

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// kept is what a later server goes on with.
type kept struct {
	Roles  map[string]Role   `json:"roles"`
	Owners map[string]string `json:"owners"`
}

// keepIn reads what an earlier server has kept in the file, and keeps everything there from now on.
func (r *registry) keepIn(file string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.file = file
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	k := kept{r.roles, r.owners}
	if err == nil {
		err = json.Unmarshal(text, &k)
	}
	if err != nil {
		return fmt.Errorf("read the roles of an earlier server: %w", err)
	}
	return nil
}

// save writes it, if it is kept. The caller holds the lock.
func (r *registry) save() error {
	if r.file == "" {
		return nil
	}
	text, err := json.Marshal(kept{r.roles, r.owners})
	if err == nil {
		err = os.WriteFile(r.file+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(r.file+".new", r.file)
	}
	if err != nil {
		return fmt.Errorf("bucket: keep the roles: %w", err)
	}
	return nil
}

// give says whose a bucket is.
func (r *registry) give(bucket, owner string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owners[bucket] = owner
	return r.save()
}
