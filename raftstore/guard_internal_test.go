package raftstore

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// stuck is a log whose writes end with a channel.
type stuck struct {
	*raft.InmemStore
	end chan struct{}
}

func (s stuck) StoreLogs([]*raft.Log) error { <-s.end; return nil }

func (s stuck) Close() error { return nil }

func TestWatchdog_SeesAWriteThatHangsAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		w := &guard{persistent: stuck{raft.NewInmemStore(), end}}
		began := time.Now()
		time.AfterFunc(time.Minute, func() { w.StoreLog(&raft.Log{Index: 1}) })
		err := w.watch(nil)
		if took := time.Since(began) - time.Minute; !errors.Is(err, ErrDiskHangs) || took < diskWait || took > 2*diskWait {
			t.Errorf("after %v: %v", took, err)
		}
		close(end)
		synctest.Wait()
		stop := make(chan struct{})
		time.AfterFunc(time.Minute, func() { close(stop) })
		if err := w.watch(stop); err != nil {
			t.Error(err)
		}
	})
}

// faulty is a disk of which one write fails.
type faulty struct {
	*raft.InmemStore
	writes, fails int
}

var errIO = errors.New("input/output error")

func (f *faulty) next() error {
	f.writes++
	if f.writes == f.fails {
		return errIO
	}
	return nil
}

func (f *faulty) StoreLogs(l []*raft.Log) error {
	return errors.Join(f.next(), f.InmemStore.StoreLogs(l))
}

func (f *faulty) Set(k, v []byte) error { return errors.Join(f.next(), f.InmemStore.Set(k, v)) }

func (f *faulty) SetUint64(k []byte, v uint64) error {
	return errors.Join(f.next(), f.InmemStore.SetUint64(k, v))
}
func (f *faulty) Close() error { return nil }

func TestGuard_AfterOneFailedWriteNoOtherReachesTheDisk(t *testing.T) {
	entry := []*raft.Log{{Index: 1}}
	for name, first := range map[string]func(*guard) error{
		"log":  func(g *guard) error { return g.StoreLogs(entry) },
		"vote": func(g *guard) error { return g.Set([]byte("LastVoteCand"), []byte("a")) },
		// Raft would panic if it were told of this one.
		"term": func(g *guard) error { return errors.Join(g.SetUint64([]byte(termKey), 7), *g.broken.Load()) },
	} {
		disk := &faulty{InmemStore: raft.NewInmemStore(), fails: 1}
		var told []error
		g := &guard{persistent: disk, failed: func(err error) { told = append(told, err) }}
		if err := first(g); !errors.Is(err, ErrDiskFailed) || !errors.Is(err, errIO) {
			t.Errorf("%s: %v", name, err)
		}
		if err := g.SetUint64([]byte(termKey), 8); err != nil {
			t.Errorf("%s: the next term: %v", name, err)
		}
		for what, err := range map[string]error{
			"entry": g.StoreLogs(entry), "vote": g.Set([]byte("LastVoteCand"), nil), "term of a vote": g.SetUint64([]byte("LastVoteTerm"), 8), "end of a log": g.DeleteRange(1, 1),
		} {
			if !errors.Is(err, ErrDiskFailed) {
				t.Errorf("%s: %s was taken after the failure: %v", name, what, err)
			}
		}
		if disk.writes != 1 || len(told) != 1 {
			t.Errorf("%s: %d writes reached the disk, and %d failures were told", name, disk.writes, len(told))
		}
	}
}

func TestRoom_ComesBackWithMoreThanItLeftWith(t *testing.T) {
	r := &room{dir: "d", need: 100}
	for _, c := range []struct {
		free    uint64
		low     bool
		changed bool
	}{{100, false, false}, {99, true, true}, {100, true, false}, {149, true, false}, {150, false, true}, {120, false, false}} {
		if changed := r.look(c.free); changed != c.changed || (r.low.Load() != nil) != c.low {
			t.Errorf("with %d free: low %v, changed %v", c.free, r.low.Load() != nil, changed)
		}
	}
	if minFree(0, 1<<40) != defaultMinFree || minFree(0, 64<<20) != 64<<20/defaultMinShare || minFree(-1, 1<<40) != 0 || minFree(5, 1<<40) != 5 {
		t.Error("the mark is not what Config says")
	}
}

func TestWatchdog_SeesAWriteThatHangsBesideOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		w := &guard{persistent: stuck{raft.NewInmemStore(), end}}
		go func() { _ = w.StoreLog(&raft.Log{Index: 1}) }()
		synctest.Wait()
		if err := w.Set([]byte("k"), nil); err != nil {
			t.Fatal(err)
		}
		if err := w.watch(nil); !errors.Is(err, ErrDiskHangs) {
			t.Error(err)
		}
		close(end)
	})
}
