package dlq

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is returned by every method of a Store after Close.
	ErrClosed = errors.New("dead-letter store is closed")
	// ErrFull is returned when a letter does not fit within the store's limits. Room comes from Discard or from higher limits.
	ErrFull = errors.New("dead-letter store is full")
	// ErrUnavailable is returned when the store did not confirm in time or reported an error of its disk. The outcome is unknown:
	// appending the same letters again is safe.
	ErrUnavailable = errors.New("dead-letter store is unavailable")
	// ErrSuperseded is returned, with ErrUnavailable, when another store has saved the high-water mark since. This one acknowledges and removes nothing any more.
	ErrSuperseded = errors.New("another dead-letter store has taken over")
	// ErrNotFound is returned when the store holds no letter with the given ID.
	ErrNotFound = errors.New("dead letter not found")
	// ErrTooLarge is returned when a letter can never be stored because its record, or its error context, exceeds the limit.
	ErrTooLarge = errors.New("dead letter is too large")
	// ErrDuplicate is returned by Replace when the new letter is not new.
	ErrDuplicate = errors.New("dead letter is already stored")
	// ErrCorrupt is what every *CorruptError is.
	ErrCorrupt = errors.New("dead letter is corrupt")
	// ErrLost is what every *LostError is.
	ErrLost = errors.New("dead letters were lost")
)

// CorruptError reports a letter whose stored bytes are not those that were written. The letter stays in the store.
type CorruptError struct {
	// ID is the letter's number.
	ID uint64
	// Reason is what the check found.
	Reason string
}

// Error says which letter is damaged and how.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("dead letter %d is corrupt: %s", e.ID, e.Reason)
}

// Is reports whether target is ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// LostError reports letters that had been acknowledged and are gone without having been discarded.
type LostError struct {
	// From and To bound the IDs among which letters are missing, both included.
	From, To uint64
	// Count is how many of them are missing. Where the end of the stream is gone it is all of them, also those that had been discarded.
	Count uint64
}

// Error says how many letters are missing and where.
func (e *LostError) Error() string {
	return fmt.Sprintf("%d acknowledged dead letters are missing among %d to %d", e.Count, e.From, e.To)
}

// Is reports whether target is ErrLost.
func (e *LostError) Is(target error) bool { return target == ErrLost }
