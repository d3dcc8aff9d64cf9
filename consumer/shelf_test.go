package consumer

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
)

// shelf is [cells] in memory, without faults.
type shelf struct {
	mu       sync.Mutex
	last     uint64
	cells    map[string]shelved
	watchers map[context.Context]func(string, uint64)
}

func (s *shelf) Follow(ctx context.Context, filter string, seen func(string, []byte), all func()) error {
	keys, _ := s.Keys(ctx, filter)
	s.mu.Lock()
	for _, key := range keys {
		seen(key, s.cells[key].value)
	}
	all()
	if s.watchers == nil {
		s.watchers = map[context.Context]func(string, uint64){}
	}
	s.watchers[ctx] = func(key string, _ uint64) {
		if strings.HasPrefix(key, strings.TrimSuffix(filter, ">")) {
			seen(key, s.cells[key].value)
		}
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, ctx)
	return nil
}

type shelved struct {
	value    []byte
	revision uint64
}

func (s *shelf) Get(_ context.Context, key string) ([]byte, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.cells[key]
	if !ok {
		return nil, 0, errNoCell
	}
	return bytes.Clone(c.value), c.revision, nil
}

func (s *shelf) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	return s.Update(ctx, key, value, 0)
}

func (s *shelf) Update(_ context.Context, key string, value []byte, revision uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if is := s.cells[key].revision; is != revision {
		return 0, fmt.Errorf("%s is at %d, not at %d: %w", key, is, revision, errSwapped)
	}
	return s.put(key, value), nil
}

func (s *shelf) Put(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(key, value)
	return nil
}

func (s *shelf) put(key string, value []byte) uint64 {
	if s.cells == nil {
		s.cells = map[string]shelved{}
	}
	s.last++
	s.cells[key] = shelved{bytes.Clone(value), s.last}
	s.tell(key)
	return s.last
}

func (s *shelf) tell(key string) {
	for _, seen := range s.watchers {
		seen(key, s.last)
	}
}

func (s *shelf) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delete(key)
	return nil
}

func (s *shelf) DeleteIf(_ context.Context, key string, revision uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cells[key].revision != revision {
		return errSwapped
	}
	s.delete(key)
	return nil
}

func (s *shelf) delete(key string) {
	delete(s.cells, key)
	s.last++
	s.tell(key)
}

// Keys takes a filter of * for one token, and > at its end for all others.
func (s *shelf) Keys(_ context.Context, filter string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pattern, all := strings.CutSuffix(filter, ">")
	var keys []string
	for key := range s.cells {
		name := key
		if all {
			name = key[:min(len(key), len(pattern))]
		}
		if ok, err := path.Match(strings.ReplaceAll(pattern, ".", "/"), strings.ReplaceAll(name, ".", "/")); err == nil && ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

func (s *shelf) Changes(ctx context.Context, _ string, seen func(string, uint64)) error {
	s.mu.Lock()
	if s.watchers == nil {
		s.watchers = map[context.Context]func(string, uint64){}
	}
	s.watchers[ctx] = seen
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, ctx)
	return nil
}
