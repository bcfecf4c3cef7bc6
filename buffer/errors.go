package buffer

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is returned by operations on a closed window, limit, queue or merge, and by those
	// that were waiting when it was closed.
	ErrClosed = errors.New("buffer: closed")

	// ErrTooLarge is returned when several records are requested at once and would not fit even
	// with nothing outstanding. Ask for fewer records.
	ErrTooLarge = errors.New("buffer: request is larger than the window")

	// ErrMerged is returned by [Merge.Add] for a queue that a merge already reads.
	ErrMerged = errors.New("buffer: queue is already part of a merge")
)

// A GrantError is returned by [RecvLimit.Check] when a sender sent more than it was granted.
type GrantError struct {
	Used    Grant // all that was received, the refused request included
	Granted Grant // the latest announced grant
}

// Error names both totals.
func (e *GrantError) Error() string {
	return fmt.Sprintf("buffer: sender exceeded its grant: sent %d records and %d bytes, granted %d records and %d bytes",
		e.Used.Records, e.Used.Bytes, e.Granted.Records, e.Granted.Bytes)
}
