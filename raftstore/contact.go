package raftstore

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// contacts is when the newest request was sent that a peer answered as a follower of this server.
//
// A read must know that nobody else led when it began. An answer shows that the peer followed when it gave it, so only one to a request that was sent after the read
// began says anything; the library also counts those to earlier ones, which may have come slowly. See section 6.4 of Ongaro, "Consensus: Bridging Theory and Practice".
type contacts struct {
	mu      sync.Mutex
	term    uint64
	sent    map[raft.ServerID]time.Time
	changed chan struct{}
}

func newContacts() *contacts {
	return &contacts{sent: map[raft.ServerID]time.Time{}, changed: make(chan struct{})}
}

// answered notes the answer to a request that was sent to a peer then.
func (c *contacts) answered(peer raft.ServerID, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse, sent time.Time) {
	if !resp.Success || resp.Term != req.Term {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case req.Term < c.term:
		return
	case req.Term > c.term:
		c.term = req.Term
		clear(c.sent)
	}
	if !sent.After(c.sent[peer]) {
		return
	}
	c.sent[peer] = sent
	close(c.changed)
	c.changed = make(chan struct{})
}

// followed reports whether a majority of the voters, self among them, followed in a term at some time after began, and otherwise returns what is closed when more is known.
func (c *contacts) followed(term uint64, began time.Time, voters []raft.ServerID, self raft.ServerID) (ok bool, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, id := range voters {
		if id == self || c.term == term && !c.sent[id].Before(began) {
			n++
		}
	}
	return n > len(voters)/2, c.changed
}

// last is the newest time at which a majority of the voters, self always, is known to have followed in a term; the zero time when that is not known.
func (c *contacts) last(term uint64, voters []raft.ServerID, self raft.ServerID) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.term != term {
		return time.Time{}
	}
	var sent []time.Time
	need := len(voters)/2 + 1
	for _, id := range voters {
		if id == self {
			need--
		} else {
			sent = append(sent, c.sent[id])
		}
	}
	if need == 0 || need > len(sent) {
		return time.Time{}
	}
	slices.SortFunc(sent, func(a, b time.Time) int { return b.Compare(a) })
	return sent[need-1]
}
