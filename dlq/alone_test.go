package dlq_test

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/dlq/embed"
)

func TestCluster_WhatOneServerOfALostClusterHasGoesOnAlone(t *testing.T) {
	c := openTrio(t)
	store := c.open(0)
	want := make(map[uint64]string)
	for i := range 19 {
		id := fmt.Sprint(i)
		want[c.append(store, id)] = id
	}
	if err := store.Discard(bg, 3); err != nil {
		t.Fatal(err)
	}
	delete(want, 3)
	kept := c.appendToLeader(store, func(id uint64, recordID string) { want[id] = recordID })
	next := uint64(len(want)) + 2 // behind those and the one that was discarded
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	store = c.open((kept + 1) % 3)
	c.current(store)
	c.stop(kept)
	c.append(store, "only the others have it")
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		c.stop(i)
	}
	mark, err := c.mark.Load(bg)
	if err != nil {
		t.Fatal(err)
	}
	dir, files := t.TempDir(), filepath.Join(c.dirs[kept], "nats")
	if err := dlq.AdoptMark(dir, []byte("{")); err == nil {
		t.Error("a mark was adopted that is none")
	}
	if err := dlq.AdoptMark(dir, mark); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := embed.Leave(files); err != nil {
			t.Fatal(err)
		}
	}
	var said strings.Builder
	server, err := embed.Open(embed.Config{Dir: files, Logger: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	js, err := server.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	alone, err := dlq.Open(bg, js, dlq.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { alone.Close() })
	var lost *dlq.LostError
	if err := alone.Health(); !errors.As(err, &lost) || lost.From != next || lost.Count != 1 {
		t.Errorf("one letter is missing, and the store says: %v", err)
	}
	got := 0
	for _, l := range list(t, alone, dlq.Query{}) {
		if want[l.ID] != l.RecordID {
			t.Errorf("letter %d is %q, and was %q", l.ID, l.RecordID, want[l.ID])
		}
		got++
	}
	if got != len(want) {
		t.Errorf("%d letters of %d", got, len(want))
	}
	if r := add(t, alone, named("5"))[0]; !r.Duplicate {
		t.Errorf("a letter from before is taken for a new one: %+v", r)
	}
	if err := errors.Join(alone.Close(), server.Close()); err != nil {
		t.Fatal(err)
	}
	if said.Len() > 0 { // such as that the stream is one of several copies
		t.Errorf("the server says: %s", said.String())
	}
}
