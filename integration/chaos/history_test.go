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
