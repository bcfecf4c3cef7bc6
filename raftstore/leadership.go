package raftstore

import (
	"cmp"
	"context"
	"iter"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// barrierAgain is how long a leader waits that could not bring its machine up to date.
const barrierAgain = 50 * time.Millisecond

// Leadership says whether this node leads, and in which term.
type Leadership struct {
	// Leader is set once all commands of earlier terms are applied here.
	Leader bool
	// Term of the leadership; 0 when Leader is false.
	Term uint64
}

// Leadership says whether this node leads now.
func (s *Store) Leadership() Leadership {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lead
}

// LeadershipChanges yields the present leadership and then each change, the newest only when several happened meanwhile. It ends with ctx and with the store.
func (s *Store) LeadershipChanges(ctx context.Context) iter.Seq[Leadership] {
	return func(yield func(Leadership) bool) {
		for {
			s.mu.Lock()
			lead, changed := s.lead, s.changed
			s.mu.Unlock()
			if !yield(lead) {
				return
			}
			for s.Leadership() == lead {
				select {
				case <-ctx.Done():
					return
				case <-s.closing:
					return
				case <-changed:
				}
				s.mu.Lock()
				changed = s.changed
				s.mu.Unlock()
			}
		}
	}
}

func (s *Store) setLeadership(l Leadership) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lead == l {
		return
	}
	s.lead = l
	close(s.changed)
	s.changed = make(chan struct{})
}

// watchLeadership must always be ready to receive: raft blocks on the channel.
func (s *Store) watchLeadership() {
	var again <-chan time.Time
	for {
		var leads bool
		select {
		case <-s.closing:
			return
		case leads = <-s.notify:
		case <-again:
			leads = s.raft.State() == raft.Leader
		}
		again = nil
		if !leads {
			s.noteLed()
			s.setLeadership(Leadership{})
			continue
		}
		term := s.raft.CurrentTerm()
		if s.await(context.Background(), s.raft.Barrier(0)) == nil && s.raft.CurrentTerm() == term {
			s.setLeadership(Leadership{Leader: true, Term: term})
		} else {
			// Raft refuses it also while an earlier hand-over has not ended, and leads all the same.
			again = time.After(barrierAgain)
		}
	}
}

// noteLed remembers how far this node had come when a majority followed it last: until then nobody else can have committed anything.
func (s *Store) noteLed() {
	lead := s.Leadership()
	if !lead.Leader {
		return
	}
	voters, err := s.voters()
	if err != nil {
		return // raft ends
	}
	if at := s.trans.heard.last(lead.Term, voters, raft.ServerID(s.ServerID())); !at.IsZero() {
		s.server.heard.led(s.raft.CommitIndex(), s.raft.AppliedIndex(), at)
	}
}

// awaitLead returns when the store leads.
func (s *Store) awaitLead(ctx context.Context) error {
	waiting, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-s.Failed():
			cancel()
		case <-waiting.Done():
		}
	})
	for lead := range s.LeadershipChanges(waiting) {
		if lead.Leader {
			return nil
		}
	}
	return cmp.Or(s.Err(), context.Cause(ctx), ErrClosed)
}
