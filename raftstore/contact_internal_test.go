package raftstore

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A read is answered exactly when a majority of the voters, with the leader, answered what was sent after it began, in the leader's term.
func TestContacts_FollowedIsAMajorityThatAnsweredWhatWasSentLater(t *testing.T) {
	all := []raft.ServerID{"a", "b", "c", "d", "e"}
	for seed := range uint64(500) {
		random := rand.New(rand.NewPCG(seed, 0))
		voters := all[:1+random.IntN(len(all))]
		c, start := newContacts(), time.Now()
		at := func(n int) time.Time { return start.Add(time.Duration(n) * time.Millisecond) }
		type answer struct {
			peer raft.ServerID
			term uint64
			sent int
		}
		var answers []answer
		for range random.IntN(12) {
			a := answer{all[1+random.IntN(len(all)-1)], uint64(1 + random.IntN(3)), random.IntN(10)}
			resp := raft.AppendEntriesResponse{Success: true, Term: a.term}
			switch random.IntN(6) {
			case 0:
				resp.Success = false
			case 1:
				resp.Term++ // it follows another one by now
			default:
				answers = append(answers, a)
			}
			c.answered(a.peer, &raft.AppendEntriesRequest{Term: a.term}, &resp, at(a.sent))
		}
		// This server leads in the last term in which anybody answered it.
		term := uint64(1)
		for _, a := range answers {
			term = max(term, a.term)
		}
		for began := range 11 {
			n := 1
			for _, id := range voters[1:] {
				for _, a := range answers {
					if a.peer == id && a.term == term && a.sent >= began {
						n++
						break
					}
				}
			}
			if got, _ := c.followed(term, at(began), voters, "a"); got != (n > len(voters)/2) {
				t.Fatalf("seed %d: of %v, after %d ms in term %d: %v, with the answers %v", seed, voters, began, term, got, answers)
			}
			if last := c.last(term, voters, "a"); len(voters) > 1 && !last.Before(at(began)) != (n > len(voters)/2) {
				t.Fatalf("seed %d: of %v, a majority followed last after %v in term %d, with the answers %v", seed, voters, last.Sub(start), term, answers)
			}
		}
	}
}

func TestContacts_WhoeverWaitsIsTold(t *testing.T) {
	c, now := newContacts(), time.Now()
	_, changed := c.followed(1, now, []raft.ServerID{"a", "b"}, "a")
	c.answered("b", &raft.AppendEntriesRequest{Term: 1}, &raft.AppendEntriesResponse{Success: true, Term: 1}, now.Add(1))
	select {
	case <-changed:
	default:
		t.Error("nobody was told of the answer")
	}
}
