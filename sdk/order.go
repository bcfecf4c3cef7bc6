package sdk

import (
	"errors"
	"fmt"
)

var errNotTried = &classError{classNotTried, &codeError{CodeNotTried, errors.New("an earlier record of the key failed")}}

func isAlready(err error) bool { return errors.Is(err, ErrAlready) }

func errWrongCount(got, want int) error {
	return fmt.Errorf("the transform returned %d results for %d records", got, want)
}

// failedKeys is the keys that failed within one batch. Records without a key have no successors.
type failedKeys struct {
	keys map[string]struct{}
}

func (f *failedKeys) reset() { clear(f.keys) }

func (f *failedKeys) has(key []byte) bool {
	if len(f.keys) == 0 || len(key) == 0 {
		return false
	}
	_, ok := f.keys[string(key)]
	return ok
}

func (f *failedKeys) add(key []byte) {
	if len(key) == 0 {
		return
	}
	if f.keys == nil {
		f.keys = map[string]struct{}{}
	}
	f.keys[string(key)] = struct{}{}
}

// maxBlockedKeys bounds what a peer can make a stream remember. A sidecar never has so many failed records open.
const maxBlockedKeys = 1 << 16

// order keeps the records of a key in order on one stream: once a record failed, the later ones of its key are not tried until it comes
// again or is released.
type order struct {
	off     bool
	blocked map[string]string // key to id of the record that failed first
}

// admit reports whether a record may be tried.
func (o *order) admit(key []byte, id string) bool {
	if len(o.blocked) == 0 || len(key) == 0 {
		return true
	}
	by, ok := o.blocked[string(key)]
	if !ok {
		return true
	}
	if by != id {
		return false
	}
	delete(o.blocked, string(key))
	return true
}

// fail blocks the key of a record that failed, unless it is blocked already. The strings are copied.
func (o *order) fail(key []byte, id string) {
	if o.off || len(key) == 0 {
		return
	}
	if o.blocked == nil {
		o.blocked = map[string]string{}
	}
	if _, ok := o.blocked[string(key)]; !ok {
		o.blocked[string(key)] = string([]byte(id))
	}
}

func (o *order) release(key []byte) { delete(o.blocked, string(key)) }

func (o *order) overflow() bool { return len(o.blocked) > maxBlockedKeys }
