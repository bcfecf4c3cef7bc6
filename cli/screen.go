package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
)

// screen is a writer on a terminal that keeps some lines drawn below what is written. Its methods may be called concurrently.
type screen struct {
	mu    sync.Mutex
	w     io.Writer
	lines []string
}

// Write writes above the drawn lines.
func (s *screen) Write(text []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines) == 0 {
		return s.w.Write(text)
	}
	if _, err := io.WriteString(s.w, s.erased()+string(text)+s.drawn()); err != nil {
		return 0, err
	}
	return len(text), nil
}

// draw replaces the drawn lines, each of which must fit the width; without any, none are drawn.
func (s *screen) draw(lines ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	erase := s.erased()
	s.lines = lines
	_, _ = io.WriteString(s.w, erase+s.drawn()) // a terminal that is gone has nobody to tell
}

func (s *screen) erased() string {
	if len(s.lines) == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA\x1b[J", len(s.lines))
}

func (s *screen) drawn() string {
	if len(s.lines) == 0 {
		return ""
	}
	return strings.Join(s.lines, "\n") + "\n"
}
