package dlq_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/conveyor-etl/conveyor/dlq"
)

// damaged lists what comes back sound and what is reported as corrupt.
func damaged(t testing.TB, s *dlq.Store, q dlq.Query) (sound, corrupt []uint64) {
	t.Helper()
	for l, err := range s.List(bg, q) {
		switch c, ok := errors.AsType[*dlq.CorruptError](err); {
		case ok:
			corrupt = append(corrupt, c.ID)
			if l.ID != c.ID {
				t.Errorf("the letter's ID is %d, the error's %d", l.ID, c.ID)
			}
		case err != nil:
			t.Fatalf("list: %v", err)
		default:
			sound = append(sound, l.ID)
		}
	}
	return sound, corrupt
}

func TestCorruptLetter_IsReportedWithItsIDAndKept(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir, dlq.Config{})
	add(t, in.store, letters(1, 3)...)
	// The stream's own checksum covers what the server was given; give it a letter that was damaged on its way.
	raw, err := in.js.Stream(bg, dlq.DefaultStream)
	if err != nil {
		t.Fatal(err)
	}
	m, err := raw.GetMsg(bg, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{
		append(bytes.Clone(m.Data[:40]), append([]byte{m.Data[40] ^ 1}, m.Data[41:]...)...),
		m.Data[:len(m.Data)-5],
		nil,
	} {
		if _, err := in.js.Publish(bg, m.Subject, data); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		sound, corrupt := damaged(t, in.store, dlq.Query{Match: func(*dlq.Letter) bool { return true }})
		if !slices.Equal(sound, []uint64{1, 2, 3}) || !slices.Equal(corrupt, []uint64{4, 5, 6}) {
			t.Errorf("sound %v, corrupt %v", sound, corrupt)
		}
		if _, err := in.store.Get(bg, 5); !errors.Is(err, dlq.ErrCorrupt) {
			t.Errorf("get: %v", err)
		}
		if err := in.store.Health(); !errors.Is(err, dlq.ErrCorrupt) || !strings.Contains(err.Error(), "dead letter 6 is corrupt") {
			t.Errorf("health: %v", err)
		}
		in = reopen(t, in, dir, dlq.Config{})
	}
	if err := in.store.Health(); !errors.Is(err, dlq.ErrCorrupt) {
		t.Errorf("health right after opening: %v", err)
	}
	if got := add(t, in.store, letter(7)); got[0] != (dlq.Result{ID: 7}) {
		t.Errorf("append beside damage: %+v", got)
	}
	if err := in.store.Discard(bg, 4, 5, 6); err != nil {
		t.Fatal(err)
	}
	healthy(t, in.store)
}

// files returns the files below dir whose name matches.
func files(t testing.TB, dir, pattern string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if ok, _ := filepath.Match(pattern, filepath.Base(path)); ok && err == nil {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatalf("no %s below %s", pattern, dir)
	}
	return all
}

func TestLoss_IsReportedAtTheNextOpening(t *testing.T) {
	truncate := func(t *testing.T, dir string) {
		for _, index := range files(t, dir, "index.db") {
			if err := os.Remove(index); err != nil {
				t.Fatal(err)
			}
		}
		block := files(t, dir, "*.blk")[0]
		st, err := os.Stat(block)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(block, st.Size()*2/3); err != nil {
			t.Fatal(err)
		}
	}
	flip := func(t *testing.T, dir string) {
		block := files(t, dir, "*.blk")[0]
		b, err := os.ReadFile(block)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/3] ^= 0x10
		if err := os.WriteFile(block, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wipe := func(t *testing.T, dir string) {
		if err := os.RemoveAll(filepath.Join(dir, "nats")); err != nil {
			t.Fatal(err)
		}
	}
	for name, damage := range map[string]func(*testing.T, string){"truncated": truncate, "bit flipped": flip, "wiped": wipe} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			in := open(t, dir, dlq.Config{})
			add(t, in.store, letters(1, 100)...)
			// Discarded letters must not hide the loss of as many others.
			if err := in.store.Discard(bg, upTo(1, 10)...); err != nil {
				t.Fatal(err)
			}
			if err := in.stop(); err != nil {
				t.Fatal(err)
			}
			damage(t, dir)
			in = open(t, dir, dlq.Config{})
			sound, corrupt := damaged(t, in.store, dlq.Query{})
			err := in.store.Health()
			t.Logf("%d letters left, %d reported corrupt, health: %v", len(sound), len(corrupt), err)
			lost, ok := errors.AsType[*dlq.LostError](err)
			if !ok || !errors.Is(err, dlq.ErrLost) {
				t.Fatalf("health: %v", err)
			}
			if missing := 90 - len(sound); lost.Count < uint64(missing) || lost.To > 100 || lost.From < 1 || lost.From > lost.To {
				t.Errorf("%d letters are missing, reported %+v", missing, *lost)
			}

			// The report stays over restarts and work, until it is accepted; then the next loss counts for itself.
			add(t, in.store, letters(201, 220)...)
			in = reopen(t, in, dir, dlq.Config{})
			if again, _ := errors.AsType[*dlq.LostError](in.store.Health()); again == nil || *again != *lost {
				t.Errorf("after reopening: %v, want %v", again, lost)
			}
			if err := in.store.AcceptLoss(bg); err != nil {
				t.Fatal(err)
			}
			in = reopen(t, in, dir, dlq.Config{})
			if err := in.store.Health(); errors.Is(err, dlq.ErrLost) {
				t.Errorf("accepted, and reported again: %v", err)
			}
		})
	}
}

func TestLoss_OfTheStreamBehindAnOpenStoreIsReported(t *testing.T) {
	in := open(t, t.TempDir(), dlq.Config{})
	add(t, in.store, letters(1, 5)...)
	raw, err := in.js.Stream(bg, dlq.DefaultStream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := raw.CachedInfo().Config
	if err := in.js.DeleteStream(bg, dlq.DefaultStream); err != nil {
		t.Fatal(err)
	}
	if _, err := in.js.CreateStream(bg, cfg); err != nil {
		t.Fatal(err)
	}
	if got := add(t, in.store, letter(3)); got[0].Duplicate {
		t.Errorf("a letter that is gone was answered as stored: %+v", got)
	}
	lost, _ := errors.AsType[*dlq.LostError](in.store.Health())
	if diff := cmp.Diff(&dlq.LostError{From: 1, To: 5, Count: 5}, lost); diff != "" {
		t.Errorf("loss (-want +got):\n%s", diff)
	}
}

func TestOpen_RefusesADamagedMarkUnlessItsOtherHalfIsSound(t *testing.T) {
	dir := t.TempDir()
	in := open(t, dir, dlq.Config{})
	add(t, in.store, letter(1))
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
	mark := files(t, dir, "high-water")[0]
	good, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	half := len(good) / 2
	for _, at := range []int{0, 5, 9, 20, 40} {
		for _, c := range []struct {
			name    string
			damage  []int
			refused bool
		}{{"first", []int{at}, false}, {"second", []int{half + at}, false}, {"both", []int{at, half + at}, true}} {
			bad := bytes.Clone(good)
			for _, i := range c.damage {
				bad[i] ^= 1
			}
			if err := os.WriteFile(mark, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			in, err := start(dir, dlq.Config{})
			if refused := err != nil; refused != c.refused || refused && !strings.Contains(err.Error(), mark) {
				t.Errorf("%s half damaged at %d: %v", c.name, at, err)
			}
			if err == nil {
				healthy(t, in.store)
				if err := in.stop(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	// Without the mark the store opens.
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	in = open(t, dir, dlq.Config{})
	healthy(t, in.store)
	if n, err := in.store.Count(bg, dlq.Query{}); n != 1 || err != nil {
		t.Errorf("count %d, %v", n, err)
	}
}
