package chaos

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// History is what clients asked of a cluster that keeps one value a key, and what they were answered. Its methods may be called concurrently.
type History struct {
	began time.Time

	mu  sync.Mutex
	ops []porcupine.Operation
}

// NewHistory returns an empty one.
func NewHistory() *History { return &History{began: time.Now()} }

type input struct {
	key   string
	write bool
	value string
}

func (h *History) now() int64 { return int64(time.Since(h.began)) }

// ErrRefused comes with the error of a write that was certainly not made, and ErrAbsent with that of a deletion of what is not there.
var (
	ErrRefused = errors.New("refused")
	ErrAbsent  = errors.New("absent")
)

// Write records a write that do makes. When its outcome is unknown, it may take effect at any later time, or never. One that was refused is left out: nobody may ever read it.
func (h *History) Write(client int, key, value string, do func() error) error {
	return h.WriteAll(client, map[string]string{key: value}, do)
}

// WriteAll records a write of several keys. The history knows nothing of that they are written together.
func (h *History) WriteAll(client int, values map[string]string, do func() error) error {
	call := h.now()
	err := do()
	if errors.Is(err, ErrRefused) {
		return err
	}
	until := h.now()
	if err != nil {
		until = int64(1 << 62)
	}
	for key, value := range values {
		h.add(porcupine.Operation{ClientId: client, Input: input{key, true, value}, Call: call, Output: value, Return: until})
	}
	return err
}

// Delete records a deletion that do makes, after which the key reads as if it was never written. Where there was nothing to delete it read that.
func (h *History) Delete(client int, key string, do func() error) error {
	call := h.now()
	var err error
	_ = h.Write(client, key, "", func() error {
		if err = do(); errors.Is(err, ErrAbsent) {
			return ErrRefused
		}
		return err
	})
	if errors.Is(err, ErrAbsent) {
		h.add(porcupine.Operation{ClientId: client, Input: input{key, false, ""}, Call: call, Output: "", Return: h.now()})
	}
	return err
}

// Read records a read that do makes; one that fails says nothing, and is left out. A key that was never written reads as "".
func (h *History) Read(client int, key string, do func() (string, error)) error {
	call := h.now()
	value, err := do()
	if err == nil {
		h.add(porcupine.Operation{ClientId: client, Input: input{key, false, ""}, Call: call, Output: value, Return: h.now()})
	}
	return err
}

func (h *History) add(op porcupine.Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, op)
}

// Len is how many operations were recorded.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// Linearizable returns "" when some order of the operations explains all answers, in which each takes effect between its call and its return; otherwise it says so. A
// history that cannot be judged in the time is a fault as well.
func (h *History) Linearizable(within time.Duration) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch result := porcupine.CheckOperationsTimeout(registers, h.ops, within); result {
	case porcupine.Ok:
		return ""
	case porcupine.Illegal:
		return fmt.Sprintf("no order of the %d operations explains what was answered", len(h.ops))
	default:
		return fmt.Sprintf("%d operations could not be judged within %v", len(h.ops), within)
	}
}

// registers keep one value a key.
var registers = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		var keys []string
		for _, op := range history {
			key := op.Input.(input).key
			if byKey[key] == nil {
				keys = append(keys, key)
			}
			byKey[key] = append(byKey[key], op)
		}
		out := make([][]porcupine.Operation, len(keys))
		for i, key := range keys {
			out[i] = byKey[key]
		}
		return out
	},
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		if in := in.(input); in.write {
			return true, in.value
		}
		return out == state, state
	},
	Equal: func(a, b any) bool { return a == b },
}
