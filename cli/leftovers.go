package cli

import (
	"os"
	"sync"
)

// leftovers are directories that are removed when the process is ended at once, where nothing else can. Its methods may be called concurrently, on nil too.
type leftovers struct {
	mu   sync.Mutex
	dirs []string
}

func (l *leftovers) add(dir string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dirs = append(l.dirs, dir)
}

func (l *leftovers) remove() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, dir := range l.dirs {
		_ = os.RemoveAll(dir) // nobody waits for the outcome
	}
}
