package chaos_test

import (
	"errors"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/integration/chaos"
)

// The check must be able to fail: a stale read is caught, and an unknown write is not blamed.
func TestHistory_KnowsAStaleReadFromAnUnknownWrite(t *testing.T) {
	write := func(h *chaos.History, value string, err error) {
		if got := h.Write(0, "k", value, func() error { return err }); !errors.Is(got, err) {
			t.Fatal(got)
		}
	}
	read := func(h *chaos.History, value string) {
		if err := h.Read(1, "k", func() (string, error) { return value, nil }); err != nil {
			t.Fatal(err)
		}
	}
	good := chaos.NewHistory()
	write(good, "1", nil)
	write(good, "2", errors.New("no answer"))
	read(good, "1")
	read(good, "2") // it took effect after all
	read(good, "2")
	if said := good.Linearizable(time.Minute); said != "" {
		t.Error(said)
	}
	stale := chaos.NewHistory()
	write(stale, "1", nil)
	write(stale, "2", nil)
	read(stale, "1")
	if stale.Linearizable(time.Minute) == "" {
		t.Error("a stale read was not noticed")
	}
	refused := chaos.NewHistory()
	write(refused, "1", nil)
	write(refused, "2", chaos.ErrRefused)
	read(refused, "2")
	if refused.Linearizable(time.Minute) == "" {
		t.Error("a write that was said to be refused was read, and that was not noticed")
	}
	lost := chaos.NewHistory()
	write(lost, "1", nil)
	read(lost, "")
	if lost.Linearizable(time.Minute) == "" {
		t.Error("a lost write was not noticed")
	}
	twice := chaos.NewHistory()
	write(twice, "1", errors.New("no answer"))
	read(twice, "1")
	write(twice, "2", nil)
	read(twice, "2")
	read(twice, "1")
	if twice.Linearizable(time.Minute) == "" {
		t.Error("a write that was applied twice was not noticed")
	}
}

func TestHistory_KnowsWhatADeletionLeaves(t *testing.T) {
	anErr := errors.New("no answer")
	for name, c := range map[string]struct {
		of   func(h *chaos.History, read func(want string))
		good bool
	}{
		"nothing is there afterwards": {func(h *chaos.History, read func(string)) {
			_ = h.Delete(0, "k", func() error { return nil })
			read("")
		}, true},
		"it has no effect": {func(h *chaos.History, read func(string)) {
			_ = h.Delete(0, "k", func() error { return nil })
			read("1")
		}, false},
		"its outcome is unknown": {func(h *chaos.History, read func(string)) {
			_ = h.Delete(0, "k", func() error { return anErr })
			read("1")
			read("")
		}, true},
		"it is refused and has an effect": {func(h *chaos.History, read func(string)) {
			_ = h.Delete(0, "k", func() error { return chaos.ErrRefused })
			read("")
		}, false},
		"it finds nothing where something is": {func(h *chaos.History, read func(string)) {
			_ = h.Delete(0, "k", func() error { return chaos.ErrAbsent })
			read("1")
		}, false},
		"it finds nothing after another one": {func(h *chaos.History, _ func(string)) {
			_ = h.Delete(0, "k", func() error { return nil })
			_ = h.Delete(0, "k", func() error { return chaos.ErrAbsent })
		}, true},
		"a write of two keys made one of them": {func(h *chaos.History, read func(string)) {
			_ = h.WriteAll(0, map[string]string{"j": "2", "k": "2"}, func() error { return nil })
			read("1")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := chaos.NewHistory()
			_ = h.Write(0, "k", "1", func() error { return nil })
			c.of(h, func(want string) { _ = h.Read(1, "k", func() (string, error) { return want, nil }) })
			if said := h.Linearizable(time.Minute); (said == "") != c.good {
				t.Errorf("it is judged: %q", said)
			}
		})
	}
}
