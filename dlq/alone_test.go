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
	for i := range 20 {
		id := fmt.Sprint(i)
		want[c.append(store, id)] = id
	}
	if err := store.Discard(bg, 3); err != nil {
		t.Fatal(err)
	}
	delete(want, 3)
	c.current(store)
	c.stop(1)
	c.append(store, "only the others have it")
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	c.stop(0)
	c.stop(2)
	mark, err := c.mark.Load(bg)
	if err != nil {
		t.Fatal(err)
	}
	dir, files := t.TempDir(), filepath.Join(c.dirs[1], "nats")
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
	// A copy is current when its server has been told of everything. The last of it may not be in the stream yet when the server ends: that is missing, and said to be.
	var lost *dlq.LostError
	if err := alone.Health(); !errors.As(err, &lost) || lost.From > 21 || lost.From+lost.Count != 22 {
		t.Fatalf("letters from 21 at the latest are missing, and the store says: %v", err)
	}
	got := make(map[uint64]bool)
	for _, l := range list(t, alone, dlq.Query{}) {
		if l.ID != 3 && want[l.ID] != l.RecordID {
			t.Errorf("letter %d is %q, and was %q", l.ID, l.RecordID, want[l.ID])
		}
		got[l.ID] = true
	}
	for id := range want {
		if !got[id] && id < lost.From {
			t.Errorf("letter %d is missing, and not said to be", id)
		}
	}
	if r := add(t, alone, named("0"))[0]; !r.Duplicate {
		t.Errorf("a letter from before is taken for a new one: %+v", r)
	}
	if err := errors.Join(alone.Close(), server.Close()); err != nil {
		t.Fatal(err)
	}
	if said.Len() > 0 { // such as that the stream is one of several copies
		t.Errorf("the server says: %s", said.String())
	}
}
