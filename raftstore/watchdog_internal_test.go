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

func TestWatchdog_SeesAWriteThatHangsAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		w := &watchedLog{LogStore: stuck{raft.NewInmemStore(), end}}
		began := time.Now()
		time.AfterFunc(time.Minute, func() { w.StoreLog(&raft.Log{Index: 1}) })
		err := w.watch(diskWait, nil)
		if took := time.Since(began) - time.Minute; !errors.Is(err, ErrDiskHangs) || took < diskWait || took > 2*diskWait {
			t.Errorf("after %v: %v", took, err)
		}
		close(end)
		synctest.Wait()
		stop := make(chan struct{})
		time.AfterFunc(time.Minute, func() { close(stop) })
		if err := w.watch(diskWait, stop); err != nil {
			t.Error(err)
		}
	})
}
