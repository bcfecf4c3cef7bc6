package dlq_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/conveyor-etl/conveyor/dlq"
)

var bg = context.Background()

// letter is the nth letter of a pipeline.
func letter(n int) dlq.Letter {
	return dlq.Letter{
		RecordID:   fmt.Sprintf("src/0/%08d", n),
		Namespace:  "default",
		Pipeline:   "users",
		Generation: 3,
		Stage:      "enrich.geo",
		Edge:       "filter>enrich",
		Lane:       "users/3/src/0",
		Class:      "permanent",
		Code:       "INVALID",
		Message:    "no such country: \"ÄÖÜ\"",
		Attempts: []dlq.Attempt{
			{Time: time.Unix(1700000000, 42).UTC(), Code: "TIMEOUT", Message: "deadline"},
			{Time: time.Unix(1700000001, 0).UTC(), Code: "INVALID", Message: "no such country"},
		},
		AttemptCount:   2,
		Replays:        1,
		Service:        "geo",
		ServiceVersion: "1.2.3",
		Record:         fmt.Appendf(nil, "record %d \x00\xff", n),
	}
}

func letters(from, to int) []dlq.Letter {
	var all []dlq.Letter
	for n := from; n <= to; n++ {
		all = append(all, letter(n))
	}
	return all
}

func add(t testing.TB, s *dlq.Store, ls ...dlq.Letter) []dlq.Result {
	t.Helper()
	results, err := s.Append(bg, ls)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return results
}

func list(t testing.TB, s *dlq.Store, q dlq.Query) []dlq.Letter {
	t.Helper()
	var all []dlq.Letter
	for l, err := range s.List(bg, q) {
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		all = append(all, l)
	}
	return all
}

func ids(ls []dlq.Letter) []uint64 {
	var all []uint64
	for i := range ls {
		all = append(all, ls[i].ID)
	}
	return all
}

func upTo(from, to uint64) []uint64 {
	var all []uint64
	for id := from; id <= to; id++ {
		all = append(all, id)
	}
	return all
}

func healthy(t testing.TB, s *dlq.Store) {
	t.Helper()
	if err := s.Health(); err != nil {
		t.Errorf("health: %v", err)
	}
}

var ignoreStored = cmpopts.IgnoreFields(dlq.Letter{}, "ID", "LetterID", "StoredAt", "Checksum")

func TestAppend_KeepsEveryFieldAndSurvivesReopening(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir, dlq.Config{})
	before := time.Now()
	want := letters(1, 3)
	results := add(t, in.store, want...)
	if diff := cmp.Diff([]dlq.Result{{ID: 1}, {ID: 2}, {ID: 3}}, results); diff != "" {
		t.Fatalf("results (-want +got):\n%s", diff)
	}
	for range 2 {
		for i := range want {
			got, err := in.store.Get(bg, results[i].ID)
			if err != nil {
				t.Fatalf("get %d: %v", results[i].ID, err)
			}
			if diff := cmp.Diff(want[i], got, ignoreStored); diff != "" {
				t.Errorf("letter %d (-want +got):\n%s", i, diff)
			}
			if got.LetterID != want[i].Identity() || got.ID != results[i].ID || got.Checksum == 0 {
				t.Errorf("letter %d: id %d, letter id %q, checksum %08x", i, got.ID, got.LetterID, got.Checksum)
			}
			if got.StoredAt.Before(before.Add(-time.Minute)) || got.StoredAt.After(time.Now().Add(time.Minute)) {
				t.Errorf("letter %d stored at %s", i, got.StoredAt)
			}
		}
		healthy(t, in.store)
		in = reopen(t, in, dir, dlq.Config{})
	}
	if r := add(t, in.store, letter(4)); r[0] != (dlq.Result{ID: 4}) {
		t.Errorf("after reopening: %+v", r)
	}
}

func TestAppend_AnswersDuplicatesWithTheirIDHoweverOld(t *testing.T) {
	dir := t.TempDir()
	// The server forgets letter ids at once: only the store itself can know them.
	cfg := dlq.Config{DuplicateWindow: 100 * time.Millisecond}
	in := open(t, dir, cfg)
	add(t, in.store, letters(1, 10)...)
	in = reopen(t, in, dir, cfg)

	// A batch of new and old letters, with one twice.
	got := add(t, in.store, letter(11), letter(3), letter(12), letter(11), letter(10))
	want := []dlq.Result{{ID: 11}, {ID: 3, Duplicate: true}, {ID: 12}, {ID: 11, Duplicate: true}, {ID: 10, Duplicate: true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(upTo(1, 12), ids(list(t, in.store, dlq.Query{}))); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
}

func TestAppend_StoresADiscardedLetterAnew(t *testing.T) {
	in := open(t, t.TempDir(), dlq.Config{})
	add(t, in.store, letters(1, 3)...)
	if err := in.store.Discard(bg, 2); err != nil {
		t.Fatal(err)
	}
	// The server still remembers the id of letter 2: taking its word would lose the record.
	got := add(t, in.store, letter(1), letter(2), letter(4))
	want := []dlq.Result{{ID: 1, Duplicate: true}, {ID: 4}, {ID: 5}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if err := in.store.Discard(bg, 4); err != nil {
		t.Fatal(err)
	}
	if got := add(t, in.store, letter(2)); got[0] != (dlq.Result{ID: 6}) {
		t.Errorf("alone: %+v", got)
	}
	if n, err := in.store.Count(bg, dlq.Query{}); n != 4 || err != nil {
		t.Errorf("count %d, %v", n, err)
	}
}

func TestAppend_TwoStoresOverOneStreamNeverStoreALetterTwice(t *testing.T) {
	in := open(t, t.TempDir(), dlq.Config{DuplicateWindow: 100 * time.Millisecond})
	other, err := dlq.Open(bg, in.js, dlq.Config{Dir: t.TempDir(), DuplicateWindow: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var wg sync.WaitGroup
	for _, s := range []*dlq.Store{in.store, other} {
		wg.Go(func() {
			for n := 0; n < 100; n += 5 {
				if _, err := s.Append(bg, letters(n, n+9)); err != nil {
					t.Errorf("append: %v", err)
				}
			}
		})
	}
	wg.Wait()
	seen := make(map[string]bool)
	for _, l := range list(t, in.store, dlq.Query{}) {
		if seen[l.RecordID] {
			t.Errorf("%s is stored twice", l.RecordID)
		}
		seen[l.RecordID] = true
	}
	if len(seen) != 105 {
		t.Errorf("%d letters stored, want 105", len(seen))
	}
}

func TestAppend_ConcurrentCallersEachGetTheirOwnIDs(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir, dlq.Config{})
	const callers, each = 16, 40
	var mu sync.Mutex
	got := make(map[uint64]string)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for n := 0; n < each; n += 4 {
				ls := letters(c*each+n, c*each+n+3)
				results, err := in.store.Append(bg, ls)
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				mu.Lock()
				for i, r := range results {
					if got[r.ID] != "" || r.Duplicate {
						t.Errorf("result %+v is not new", r)
					}
					got[r.ID] = ls[i].RecordID
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	in = reopen(t, in, dir, dlq.Config{})
	stored := make(map[uint64]string)
	for _, l := range list(t, in.store, dlq.Query{}) {
		stored[l.ID] = l.RecordID
	}
	if diff := cmp.Diff(got, stored); diff != "" || len(stored) != callers*each {
		t.Errorf("%d letters stored (-acknowledged +stored):\n%s", len(stored), diff)
	}
	healthy(t, in.store)
}

func TestAppend_MoreThanABatchAndLargeRecords(t *testing.T) {
	in := open(t, t.TempDir(), dlq.Config{})
	ls := letters(1, 1203)
	for i := range 3 {
		ls[i*100].Record = make([]byte, dlq.MaxRecordBytes)
	}
	results := add(t, in.store, ls...)
	for i, r := range results {
		if r != (dlq.Result{ID: uint64(i + 1)}) {
			t.Fatalf("result %d: %+v", i, r)
		}
	}
	l, err := in.store.Get(bg, 201)
	if err != nil || len(l.Record) != dlq.MaxRecordBytes {
		t.Errorf("largest record: %d bytes, %v", len(l.Record), err)
	}
	if n := len(list(t, in.store, dlq.Query{})); n != 1203 {
		t.Errorf("%d letters listed", n)
	}

	ls[0].Record = make([]byte, dlq.MaxRecordBytes+1)
	if _, err := in.store.Append(bg, ls[:1]); !errors.Is(err, dlq.ErrTooLarge) {
		t.Errorf("too large a record: %v", err)
	}
	ls[0].Record, ls[0].RecordID = nil, string(make([]byte, 1<<20))
	if _, err := in.store.Append(bg, ls[:1]); !errors.Is(err, dlq.ErrTooLarge) {
		t.Errorf("too large an id: %v", err)
	}
}

func TestAppend_AFullStoreRefusesAndKeepsWhatItHas(t *testing.T) {
	for name, cfg := range map[string]dlq.Config{
		"bytes":   {MaxBytes: 1 << 20},
		"letters": {MaxLetters: 60},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			in := open(t, dir, cfg)
			var kept uint64
			for n := 0; ; n += 10 {
				ls := letters(n, n+9)
				for i := range ls {
					ls[i].Record = make([]byte, 10<<10)
				}
				_, err := in.store.Append(bg, ls)
				if errors.Is(err, dlq.ErrFull) {
					break
				}
				if err != nil || n > 1000 {
					t.Fatalf("append %d: %v", n, err)
				}
				kept += 10
			}
			if !errors.Is(in.store.Health(), dlq.ErrFull) {
				t.Errorf("health: %v", in.store.Health())
			}
			in = reopen(t, in, dir, cfg)
			if diff := cmp.Diff(upTo(1, kept), ids(list(t, in.store, dlq.Query{}))); diff != "" {
				t.Errorf("letters kept (-want +got):\n%s", diff)
			}
			// Discarding makes room.
			if err := in.store.Discard(bg, upTo(1, 10)...); err != nil {
				t.Fatal(err)
			}
			add(t, in.store, letter(5000))
			healthy(t, in.store)
		})
	}
}

func TestOpen_LoweredLimitsDeleteNothing(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir, dlq.Config{})
	add(t, in.store, letters(1, 50)...)
	in = reopen(t, in, dir, dlq.Config{MaxBytes: 100, MaxLetters: 3})
	if n, err := in.store.Count(bg, dlq.Query{}); n != 50 || err != nil {
		t.Errorf("count %d, %v", n, err)
	}
	if _, err := in.store.Append(bg, letters(51, 51)); !errors.Is(err, dlq.ErrFull) {
		t.Errorf("append: %v", err)
	}
	healthyExceptFull(t, in.store)
}

func healthyExceptFull(t testing.TB, s *dlq.Store) {
	t.Helper()
	if err := s.Health(); errors.Is(err, dlq.ErrLost) || errors.Is(err, dlq.ErrCorrupt) {
		t.Errorf("health: %v", err)
	}
}

func TestDiscard_IsForGoodAndIsNoLoss(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir, dlq.Config{})
	add(t, in.store, letters(1, 8)...)
	err := in.store.Discard(bg, 2, 99, 2, 8, 0)
	if !errors.Is(err, dlq.ErrNotFound) {
		t.Errorf("discard of what is not there: %v", err)
	}
	for range 2 {
		if diff := cmp.Diff([]uint64{1, 3, 4, 5, 6, 7}, ids(list(t, in.store, dlq.Query{}))); diff != "" {
			t.Errorf("ids (-want +got):\n%s", diff)
		}
		if _, err := in.store.Get(bg, 2); !errors.Is(err, dlq.ErrNotFound) {
			t.Errorf("get: %v", err)
		}
		healthy(t, in.store)
		in = reopen(t, in, dir, dlq.Config{})
	}
	if err := in.store.Discard(bg, 1, 3, 4, 5, 6, 7); err != nil {
		t.Fatal(err)
	}
	in = reopen(t, in, dir, dlq.Config{})
	healthy(t, in.store)
	if got := add(t, in.store, letter(9)); got[0].ID != 9 {
		t.Errorf("an ID was given twice: %+v", got)
	}
}

func TestReplace_StoresTheNewLetterBeforeItRemovesTheOld(t *testing.T) {
	in := open(t, t.TempDir(), dlq.Config{})
	add(t, in.store, letter(1))
	again := letter(1)
	if _, err := in.store.Replace(bg, 1, again); !errors.Is(err, dlq.ErrDuplicate) {
		t.Errorf("replace by itself: %v", err)
	}
	if _, err := in.store.Get(bg, 1); err != nil {
		t.Fatalf("the refused replacement cost the letter: %v", err)
	}
	again.Replays++
	id, err := in.store.Replace(bg, 1, again)
	if err != nil || id != 2 {
		t.Fatalf("replace: %d, %v", id, err)
	}
	if diff := cmp.Diff([]uint64{2}, ids(list(t, in.store, dlq.Query{}))); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	// An interrupted Replace has stored the new letter, or has done all: repeating it completes it.
	if id, err := in.store.Replace(bg, 1, again); err != nil || id != 2 {
		t.Errorf("repeated: %d, %v", id, err)
	}
	// The id is taken by another record: the old letter must not go.
	add(t, in.store, letter(1))
	edited := again
	edited.Record = []byte("edited")
	if _, err := in.store.Replace(bg, 3, edited); !errors.Is(err, dlq.ErrDuplicate) {
		t.Errorf("replace by another record's letter: %v", err)
	}
	if diff := cmp.Diff([]uint64{2, 3}, ids(list(t, in.store, dlq.Query{}))); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	if id, err := in.store.Replace(bg, 3, again); err != nil || id != 2 {
		t.Errorf("completed: %d, %v", id, err)
	}
}

func TestReplace_WithAFullStoreKeepsTheOldLetter(t *testing.T) {
	in := open(t, t.TempDir(), dlq.Config{MaxLetters: 2})
	add(t, in.store, letters(1, 2)...)
	again := letter(1)
	again.Replays++
	if _, err := in.store.Replace(bg, 1, again); !errors.Is(err, dlq.ErrFull) {
		t.Errorf("replace: %v", err)
	}
	if _, err := in.store.Get(bg, 1); err != nil {
		t.Errorf("old letter: %v", err)
	}
}

func TestList_PagesAndFilters(t *testing.T) {
	in := open(t, t.TempDir(), dlq.Config{})
	var all []dlq.Letter
	for n := range 600 {
		l := letter(n)
		l.Namespace = []string{"default", "team.a", "*"}[n%3]
		l.Pipeline = []string{"p", ">"}[n%2]
		l.Stage = []string{"", "s"}[n/2%2]
		l.Code = fmt.Sprint("C", n%7)
		all = append(all, l)
	}
	add(t, in.store, all...)
	if err := in.store.Discard(bg, 7, 8, 300); err != nil {
		t.Fatal(err)
	}
	code := func(c string) func(*dlq.Letter) bool { return func(l *dlq.Letter) bool { return l.Code == c } }
	for name, q := range map[string]dlq.Query{
		"all":       {},
		"namespace": {Namespace: "team.a"},
		"star":      {Namespace: "*"},
		"pipeline":  {Pipeline: ">"},
		"stage":     {Stage: "s"},
		"narrow":    {Namespace: "default", Pipeline: "p", Stage: "s"},
		"none":      {Namespace: "default", Pipeline: "q"},
		"match":     {Pipeline: "p", Match: code("C3")},
		"after":     {Namespace: "team.a", After: 298},
		"limit":     {After: 5, Limit: 10},
		"past":      {After: 100000},
	} {
		t.Run(name, func(t *testing.T) {
			var want []uint64
			for i, l := range all {
				id := uint64(i + 1)
				if slices.Contains([]uint64{7, 8, 300}, id) || id <= q.After ||
					q.Namespace != "" && q.Namespace != l.Namespace || q.Pipeline != "" && q.Pipeline != l.Pipeline ||
					q.Stage != "" && q.Stage != l.Stage || q.Match != nil && !q.Match(&l) || q.Limit > 0 && len(want) == q.Limit {
					continue
				}
				want = append(want, id)
			}
			if diff := cmp.Diff(want, ids(list(t, in.store, q))); diff != "" {
				t.Errorf("list (-want +got):\n%s", diff)
			}
			if n, err := in.store.Count(bg, q); n != uint64(len(want)) || err != nil {
				t.Errorf("count %d, %v, want %d", n, err, len(want))
			}
			var paged []uint64
			page := q
			page.Limit = 50
			for {
				got := ids(list(t, in.store, page))
				paged = append(paged, got...)
				if len(got) < page.Limit {
					break
				}
				page.After = got[len(got)-1]
			}
			if q.Limit == 0 {
				if diff := cmp.Diff(want, paged); diff != "" {
					t.Errorf("pages (-want +got):\n%s", diff)
				}
			}
		})
	}
	for range in.store.List(bg, dlq.Query{}) {
		break // a caller may stop
	}
}

func TestStats_CountsByStage(t *testing.T) {
	in := open(t, t.TempDir(), dlq.Config{MaxBytes: 1 << 30, MaxLetters: 1000})
	a, b := letter(1), letter(2)
	b.Stage = ""
	add(t, in.store, a, b, letter(3), letter(4))
	if err := in.store.Discard(bg, 1); err != nil {
		t.Fatal(err)
	}
	got, err := in.store.Stats(bg)
	if err != nil {
		t.Fatal(err)
	}
	want := dlq.Stats{
		Letters: 3, MaxLetters: 1000, MaxBytes: 1 << 30, FirstID: 2, LastID: 4,
		Stages: []dlq.StageCount{{"default", "users", "", 1}, {"default", "users", "enrich.geo", 2}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(dlq.Stats{}, "Bytes")); diff != "" || got.Bytes == 0 {
		t.Errorf("stats (-want +got), %d bytes:\n%s", got.Bytes, diff)
	}
}

func TestClose_EndsEveryMethod(t *testing.T) {
	in := open(t, t.TempDir(), dlq.Config{})
	add(t, in.store, letter(1))
	for range 2 {
		if err := in.store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, appended := in.store.Append(bg, letters(1, 1))
	_, got := in.store.Get(bg, 1)
	_, counted := in.store.Count(bg, dlq.Query{})
	var listed error
	for _, err := range in.store.List(bg, dlq.Query{}) {
		listed = err
	}
	for _, err := range []error{appended, got, counted, listed, in.store.Discard(bg, 1)} {
		if !errors.Is(err, dlq.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}

func TestAppend_WithoutAServerIsUnavailableAndSafeToRepeat(t *testing.T) {
	dir := t.TempDir()
	cfg := dlq.Config{Timeout: time.Second}
	in := open(t, dir, cfg)
	add(t, in.store, letters(1, 2)...)
	in.nc.Close()
	if _, err := in.store.Append(bg, letters(2, 3)); !errors.Is(err, dlq.ErrUnavailable) {
		t.Errorf("append: %v", err)
	}
	if err := in.store.Health(); !errors.Is(err, dlq.ErrUnavailable) {
		t.Errorf("health: %v", err)
	}
	in = reopen(t, in, dir, cfg)
	want := []dlq.Result{{ID: 2, Duplicate: true}, {ID: 3}}
	if diff := cmp.Diff(want, add(t, in.store, letters(2, 3)...)); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

func TestAppend_AGivenUpCallDisturbsNobody(t *testing.T) {
	in := open(t, t.TempDir(), dlq.Config{})
	ctx, cancel := context.WithCancel(bg)
	cancel()
	if _, err := in.store.Append(ctx, letters(1, 100)); !errors.Is(err, context.Canceled) {
		t.Errorf("append: %v", err)
	}
	add(t, in.store, letters(1, 200)...)
	if n, err := in.store.Count(bg, dlq.Query{}); n != 200 || err != nil {
		t.Errorf("count %d, %v", n, err)
	}
}
