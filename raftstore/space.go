package raftstore

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	// spaceEvery is how often is looked how much room there is.
	spaceEvery = time.Second
	// handOverEvery is how often a leader without room tries to let another one lead: that one may have no room either.
	handOverEvery = time.Minute
	// defaultMinFree is where proposals end: at so many bytes free, or at 1/defaultMinShare of a volume for which that is much.
	defaultMinFree  = 128 << 20
	defaultMinShare = 20
)

// LowDiskError says that a command was not proposed because the volume of the data directory has too little room. It is as if the command had not been given.
type LowDiskError struct {
	// Server is the id of the server whose disk it is.
	Server string
	// Dir is the data directory.
	Dir string
	// Free is how many bytes are free there, and Need how many must be.
	Free, Need uint64
}

// Error says what to do.
func (e *LowDiskError) Error() string {
	return fmt.Sprintf("the disk of server %s is nearly full: %d MiB are free in %s there, and below %d MiB nothing is changed any more: make room, and it goes on by itself",
		e.Server, e.Free>>20, e.Dir, e.Need>>20)
}

// Is reports whether target is ErrLowDisk.
func (e *LowDiskError) Is(target error) bool { return target == ErrLowDisk }

// room remembers whether there is enough of it. It takes half as much again to come back as to leave, so that a volume at the mark does not flap.
type room struct {
	server, dir string
	need        uint64
	low         atomic.Pointer[LowDiskError]
}

// look takes note of what is free, and reports whether that changed anything.
func (r *room) look(free uint64) (changed bool) {
	was := r.low.Load()
	switch {
	case free < r.need, was != nil && free < r.need+r.need/2:
		r.low.Store(&LowDiskError{Server: r.server, Dir: r.dir, Free: free, Need: r.need})
		return was == nil
	default:
		r.low.Store(nil)
		return was != nil
	}
}

// minFree applies the default to what a Config says.
func minFree(configured int64, total uint64) uint64 {
	switch {
	case configured < 0:
		return 0
	case configured > 0:
		return uint64(configured)
	}
	return min(defaultMinFree, total/defaultMinShare)
}

// watchSpace stops proposals while there is too little room: a full disk ends the server, and then it can do nothing at all.
func (s *Store) watchSpace(cfg *Config) {
	r := &s.room
	r.server, r.dir = s.ServerID(), cfg.Dir
	ticks := time.NewTicker(spaceEvery)
	defer ticks.Stop()
	var tried time.Time
	for {
		if free, total, known := volume(cfg.Dir); known {
			r.need = minFree(cfg.MinFree, total)
			if r.look(free) {
				if low := r.low.Load(); low != nil {
					s.logger.Error("proposals have stopped", "err", low)
				} else {
					s.logger.Info("there is room again, proposals go on", "dir", cfg.Dir, "free", free)
				}
			}
		}
		if r.low.Load() != nil && !s.alone && s.Leadership().Leader && time.Since(tried) > handOverEvery {
			tried = time.Now()
			s.handOver()
		}
		select {
		case <-s.closing:
			return
		case <-ticks.C:
		}
	}
}

func (s *Store) handOver() {
	ctx, cancel := context.WithTimeout(context.Background(), applyTimeout)
	defer cancel()
	if err := s.TransferLeadership(ctx, ""); err != nil {
		s.logger.Warn("leadership could not be handed over for want of room", "err", err)
	}
}

// LowDisk is nil while commands can be proposed here, as far as the disk goes.
func (s *Store) LowDisk() *LowDiskError { return s.room.low.Load() }
