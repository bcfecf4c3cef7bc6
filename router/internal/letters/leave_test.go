package letters_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/router/internal/letters"
)

func TestLeave_ALostClustersLettersGoOnAtOneRouterAndWhatItLacksIsReported(t *testing.T) {
	r := newRouters(t)
	for i := range 3 {
		r.start(i)
	}
	for i := range 5 {
		r.append(0, fmt.Sprint("shared-", i))
	}
	if err := r.stores[0].Discard(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	// What is stored while a router is away only the others have.
	await(t, func() error { return r.stores[0].Complete(t.Context(), r.names) })
	r.stops[2]()
	want := []uint64{1, 3, 4, 5}
	for _, id := range []string{"only the others have this", "and this"} {
		r.append(0, id)
	}
	r.stops[0]()
	r.stops[1]()
	dir := r.dirs[2]
	if err := letters.Leave(dir, r.shared.mark); err != nil {
		t.Fatal(err)
	}
	if err := letters.Leave(dir, nil); err != nil {
		t.Errorf("again: %v", err)
	}
	alone := letters.New(dir, nil, r.logger())
	defer run(t, alone)()
	r.stores[2] = alone
	<-alone.Opened()
	// The last that its server was told of may not be in the stream yet when that ends: it is missing, and said to be. So may be that a letter was discarded.
	got := slices.DeleteFunc(r.ids(2), func(id uint64) bool { return id == 2 })
	var lost *dlq.LostError
	if _, err := alone.Count(t.Context()); !errors.As(err, &lost) || lost.From > 6 || lost.From+lost.Count != 8 {
		t.Fatalf("letters from 6 at the latest are missing, and the store says: %v", err)
	}
	if want = slices.DeleteFunc(want, func(id uint64) bool { return id >= lost.From }); !slices.Equal(got, want) {
		t.Errorf("letters %v, want %v", got, want)
	}
	if at := r.append(2, "shared-0"); at != 1 {
		t.Errorf("a letter from before is %d now", at)
	}
	if at := r.append(2, "new"); at < lost.From {
		t.Errorf("a new letter is %d", at)
	}
}

func TestLeave_ARouterWithoutACopyReportsThatAllLettersAreLost(t *testing.T) {
	r := newRouters(t)
	for i := range 3 {
		r.start(i)
	}
	for i := range 3 {
		r.append(0, fmt.Sprint("shared-", i))
	}
	for _, stop := range r.stops {
		stop()
	}
	if !letters.HasCopy(r.dirs[1]) {
		t.Error("one of three routers has no copy")
	}
	dir := t.TempDir()
	if letters.HasCopy(dir) {
		t.Error("an empty directory has a copy")
	}
	for range 2 {
		if err := letters.Leave(dir, r.shared.mark); err != nil {
			t.Fatal(err)
		}
	}
	alone := letters.New(dir, nil, r.logger())
	defer run(t, alone)()
	<-alone.Opened()
	var lost *dlq.LostError
	if n, err := alone.Count(t.Context()); n != 0 || !errors.As(err, &lost) || lost.Count != 3 {
		t.Errorf("%d letters, %v", n, err)
	}
}
