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
	for i := range 4 {
		r.append(0, fmt.Sprint("shared-", i))
	}
	if err := r.stores[0].Discard(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	want := []uint64{1, 3, 4}
	kept := r.appendToLeader(func(id uint64) { want = append(want, id) })
	last := want[len(want)-1]
	// What is stored while a router is away only the others have.
	await(t, func() error { return r.stores[0].Complete(t.Context(), r.names) })
	other := (kept + 1) % 3
	r.shared.lead(other)
	r.stops[kept]()
	for _, id := range []string{"only the others have this", "and this"} {
		r.append(other, id)
	}
	for _, stop := range r.stops {
		stop()
	}
	dir := r.dirs[kept]
	if err := letters.Leave(dir, r.shared.mark); err != nil {
		t.Fatal(err)
	}
	if err := letters.Leave(dir, nil); err != nil {
		t.Errorf("again: %v", err)
	}
	alone := letters.New(dir, nil, r.logger())
	defer run(t, alone)()
	r.stores[kept] = alone
	<-alone.Opened()
	if got := r.ids(kept); !slices.Equal(got, want) {
		t.Errorf("letters %v, want %v", got, want)
	}
	var lost *dlq.LostError
	if n, err := alone.Count(t.Context()); n != uint64(len(want)) || !errors.As(err, &lost) || lost.Count != 2 {
		t.Errorf("%d letters, %v", n, err)
	}
	if at := r.append(kept, "last-0"); at != 5 {
		t.Errorf("a letter from before is %d now", at)
	}
	if at := r.append(kept, "new"); at <= last {
		t.Errorf("a new letter is %d", at)
	}
}

// appendToLeader stores a letter, more when the servers elect, and returns which router's server led them meanwhile: whatever was acknowledged until then is in its copy. The
// others have been told of it, and may end before the last of it is in theirs.
func (r *routers) appendToLeader(stored func(id uint64)) int {
	r.t.Helper()
	leader := func() (name string) {
		await(r.t, func() error {
			st, err := r.stores[0].Status(r.t.Context())
			name = st.Leader()
			return err
		})
		return name
	}
	for n := 0; ; n++ {
		before := leader()
		stored(r.append(0, fmt.Sprint("last-", n)))
		if i := slices.Index(r.names, before); i >= 0 && leader() == before {
			return i
		}
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
