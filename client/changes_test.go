package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// ledger is a router that knows client sessions, makes each change once, and answers as a test says.
type ledger struct {
	router
	mu       sync.Mutex
	sessions map[uint64]map[uint64]bool
	opened   uint64
	made     int
	lowest   uint64
	// lose says of the nth change that arrives that its answer is lost.
	lose func(n int) bool
	// low says of the nth change that arrives that there is no room for it.
	low   func(n int) bool
	heard int
	ended []uint64
	// wait is called for each change before it is made.
	wait func(*controlv1.Command)
}

func (l *ledger) OpenClientSession(context.Context, *controlv1.OpenClientSessionRequest) (*controlv1.OpenClientSessionResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opened++
	if l.sessions == nil {
		l.sessions = map[uint64]map[uint64]bool{}
	}
	l.sessions[l.opened] = map[uint64]bool{}
	return &controlv1.OpenClientSessionResponse{ClientSession: l.opened}, nil
}

func (l *ledger) EndClientSession(_ context.Context, req *controlv1.EndClientSessionRequest) (*controlv1.EndClientSessionResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = append(l.ended, req.GetClientSession())
	return &controlv1.EndClientSessionResponse{}, nil
}

func (l *ledger) DeleteResource(_ context.Context, req *controlv1.DeleteResourceRequest) (*controlv1.DeleteResourceResponse, error) {
	if l.wait != nil {
		l.wait(req.GetCommand())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard++
	c := req.GetCommand()
	if l.low != nil && l.low(l.heard) {
		return nil, refusal(codes.ResourceExhausted, client.ReasonLowDisk, "the disk is nearly full")
	}
	made := l.sessions[c.GetClientSession()]
	if made == nil {
		return nil, refusal(codes.FailedPrecondition, client.ReasonClientSessionEnded, "ended")
	}
	l.lowest = max(l.lowest, c.GetLowestUnanswered())
	if !made[c.GetSequence()] {
		made[c.GetSequence()] = true
		l.made++
	}
	if l.lose != nil && l.lose(l.heard) {
		return nil, errGone
	}
	return &controlv1.DeleteResourceResponse{}, nil
}

func TestChanges_ALostAnswerMakesNoSecondChange(t *testing.T) {
	l := &ledger{lose: func(n int) bool { return n%2 == 1 }}
	c := dial(t, []string{serveAdmin(t, l)})
	for i := range 3 {
		if err := c.Delete(t.Context(), "Source", "default", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if l.made != 3 || l.heard != 6 || l.opened != 1 {
		t.Errorf("3 changes were sent %d times and made %d times, in %d sessions", l.heard, l.made, l.opened)
	}
	if l.lowest != 3 {
		t.Errorf("the router was told that the lowest unanswered change is %d", l.lowest)
	}
	if err := c.Close(); err != nil || len(l.ended) != 1 {
		t.Errorf("closed with %v; sessions %v were ended", err, l.ended)
	}
}

func TestChanges_ConcurrentOnesAreAllMadeOnce(t *testing.T) {
	l := &ledger{lose: func(n int) bool { return n%3 == 0 }}
	c := dial(t, []string{serveAdmin(t, l)})
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if err := c.Delete(t.Context(), "Source", "default", fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if l.made != 40 || l.opened != 1 {
		t.Errorf("40 changes were made %d times, in %d sessions", l.made, l.opened)
	}
}

func TestChanges_AnEndedSessionIsReplacedOnlyWhileNothingCanHaveBeenDone(t *testing.T) {
	l := &ledger{}
	c := dial(t, []string{serveAdmin(t, l)})
	if err := c.Delete(t.Context(), "Source", "default", "a"); err != nil {
		t.Fatal(err)
	}
	end := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		clear(l.sessions)
	}
	end()
	if err := c.Delete(t.Context(), "Source", "default", "b"); err != nil || l.opened != 2 {
		t.Fatalf("after the end of its session: %v, %d sessions", err, l.opened)
	}
	// The answer is lost, and the session ends before the repeat.
	l.lose = func(int) bool {
		clear(l.sessions)
		return true
	}
	made := l.made
	if err := c.Delete(t.Context(), "Source", "default", "c"); !errors.Is(err, client.ErrOutcomeUnknown) {
		t.Fatalf("error %v does not match ErrOutcomeUnknown", err)
	}
	if l.made != made+1 {
		t.Errorf("the change was made %d times", l.made-made)
	}
}

func TestChanges_OneThatIsNotAnsweredHoldsUpOnlyThoseThatRoutersWouldRefuse(t *testing.T) {
	// Routers keep what they decided from the lowest unanswered change on, sixteen at most.
	const kept = 16
	stuck, over := make(chan struct{}), make(chan struct{})
	var once sync.Once
	l := &ledger{}
	l.wait = func(c *controlv1.Command) {
		if c.GetSequence() == 1 {
			once.Do(func() { close(stuck) })
			<-over
			return
		}
		if c.GetSequence()-c.GetLowestUnanswered() >= kept {
			t.Errorf("change %d was sent while %d was not answered", c.GetSequence(), c.GetLowestUnanswered())
		}
	}
	c := dial(t, []string{serveAdmin(t, l)})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Delete(t.Context(), "Source", "default", "stuck"); err != nil {
			t.Error(err)
		}
	})
	<-stuck
	for i := range kept - 1 {
		if err := c.Delete(t.Context(), "Source", "default", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	// The next waits, and can be given up.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Delete(ctx, "Source", "default", "next"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("a change that was not sent ended with: %v", err)
	}
	close(over)
	wg.Wait()
	if err := c.Delete(t.Context(), "Source", "default", "next"); err != nil {
		t.Error(err)
	}
}

func TestChanges_OneThatWasSentAndNotAnsweredIsOfUnknownOutcome(t *testing.T) {
	l := &ledger{lose: func(int) bool { return true }}
	c := dial(t, []string{serveAdmin(t, l)}, client.WithRetryFor(100*time.Millisecond))
	if err := c.Delete(t.Context(), "Source", "default", "a"); !errors.Is(err, client.ErrOutcomeUnknown) || !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("a change whose answers are all lost ended with: %v", err)
	}
	if l.made != 1 {
		t.Errorf("it was made %d times", l.made)
	}
	nobody := dial(t, []string{"127.0.0.1:1"}, client.WithRetryFor(100*time.Millisecond))
	if err := nobody.Delete(t.Context(), "Source", "default", "a"); errors.Is(err, client.ErrOutcomeUnknown) || !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("a change that reached nobody ended with: %v", err)
	}
}

// A router that has no room says nothing of what became of a try that it, or another one, has taken before.
func TestChanges_AFullDiskAfterALostAnswerLeavesTheOutcomeUnknown(t *testing.T) {
	l := &ledger{lose: func(n int) bool { return n == 1 }, low: func(n int) bool { return n == 2 }}
	c := dial(t, []string{serveAdmin(t, l)})
	if err := c.Delete(t.Context(), "Source", "default", "a"); !errors.Is(err, client.ErrOutcomeUnknown) || !errors.Is(err, client.ErrLowDisk) || l.made != 1 {
		t.Errorf("a change that was made %d times ended with: %v", l.made, err)
	}
	l.low = func(int) bool { return true }
	if err := c.Delete(t.Context(), "Source", "default", "b"); errors.Is(err, client.ErrOutcomeUnknown) || !errors.Is(err, client.ErrLowDisk) {
		t.Errorf("a change that was refused at once ended with: %v", err)
	}
}
