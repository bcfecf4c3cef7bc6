package client_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// changed is a change of one resource, and bookmark says that everything up to a revision was told.
func changed(revision uint64, name string) *controlv1.WatchResourcesResponse {
	return &controlv1.WatchResourcesResponse{Revision: revision, Resource: &controlv1.Resource{Kind: "Source", Namespace: "default", Name: name}}
}

func bookmark(revision uint64) *controlv1.WatchResourcesResponse {
	return &controlv1.WatchResourcesResponse{Revision: revision}
}

// watch tells of the messages behind the revision that it is asked for: in the first stream so many of them, in the others all.
func watch(first int, log ...*controlv1.WatchResourcesResponse) (r *router, asked func() []uint64) {
	var mu sync.Mutex
	var revisions []uint64
	r = &router{watch: func(call int64, req *controlv1.WatchResourcesRequest, send func(*controlv1.WatchResourcesResponse) error) error {
		mu.Lock()
		revisions = append(revisions, req.GetAfterRevision())
		mu.Unlock()
		sent := 0
		for _, m := range log {
			if m.GetRevision() <= req.GetAfterRevision() {
				continue
			}
			if call == 1 && sent == first {
				return errGone
			}
			if err := send(m); err != nil {
				return err
			}
			sent++
		}
		return nil // a router that ends the stream is no reason to stop watching
	}}
	return r, func() []uint64 {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(revisions)
	}
}

// see reads so many changes of a watch.
func see(t *testing.T, c *client.Client, after uint64, count int) (got []client.Event, names string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for e, err := range c.Watch(ctx, "Source", "", after) {
		if err != nil {
			t.Fatalf("after %q: %v", names, err)
		}
		got = append(got, e)
		names += e.Resource.GetName()
		if len(got) == count {
			break
		}
	}
	return got, names
}

func TestWatch_ABreakWithinOneChangeOfManyResourcesLosesAndDoublesNothing(t *testing.T) {
	for name, log := range map[string][]*controlv1.WatchResourcesResponse{
		"a router that tells when a revision is complete": {
			changed(6, "a"), bookmark(6), changed(8, "b"), changed(8, "c"), changed(8, "d"), bookmark(8), changed(9, "e"), changed(9, "f"), bookmark(9), changed(12, "g"), bookmark(12),
		},
		"a router that does not": {
			changed(6, "a"), changed(8, "b"), changed(8, "c"), changed(8, "d"), changed(9, "e"), changed(9, "f"), changed(12, "g"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			for first := range log {
				r, _ := watch(first, log...)
				c := dial(t, []string{r.serve(t, "127.0.0.1:0")})
				if _, names := see(t, c, 5, 7); names != "abcdefg" {
					t.Errorf("after a break behind %d messages the watch saw %s", first, names)
				}
			}
		})
	}
}

func TestWatch_ResumesBehindWhatIsKnownToBeComplete(t *testing.T) {
	r, asked := watch(5, changed(6, "a"), bookmark(6), changed(8, "b"), bookmark(8), changed(9, "c"), changed(9, "d"), bookmark(9), changed(10, "e"))
	c := dial(t, []string{r.serve(t, "127.0.0.1:0")})
	see(t, c, 5, 5)
	if diff := cmp.Diff([]uint64{5, 8}, asked()); diff != "" {
		t.Error(diff)
	}
}

func TestWatch_ANewOneFromAnyChangeMissesNoneOfThoseBehindIt(t *testing.T) {
	r, _ := watch(-1, changed(6, "a"), bookmark(6), changed(8, "b"), changed(8, "c"), bookmark(8), changed(9, "d"))
	c := dial(t, []string{r.serve(t, "127.0.0.1:0")})
	got, _ := see(t, c, 5, 4)
	for i, want := range []string{"abcd", "bcd", "bcd", "d"} {
		if _, names := see(t, c, got[i].ResumeAfter, len(want)); names != want {
			t.Errorf("a watch that begins at %s saw %s, want %s", got[i].Resource.GetName(), names, want)
		}
	}
}

func TestWatch_IsTheSameWhenItIsUsedAgain(t *testing.T) {
	r, _ := watch(-1, changed(6, "a"), bookmark(6), changed(8, "b"))
	events := dial(t, []string{r.serve(t, "127.0.0.1:0")}).Watch(t.Context(), "Source", "", 5)
	for range 2 {
		for e, err := range events {
			if err != nil || e.Resource.GetName() != "a" {
				t.Fatalf("the watch began with %v, error %v", e.Resource, err)
			}
			break
		}
	}
}

func TestWatch_EndsWithARefusal(t *testing.T) {
	r := &router{watch: func(int64, *controlv1.WatchResourcesRequest, func(*controlv1.WatchResourcesResponse) error) error {
		return refusal(codes.OutOfRange, client.ReasonRevisionCompacted, "too old")
	}}
	c := dial(t, []string{r.serve(t, "127.0.0.1:0")})
	var last error
	for _, err := range c.Watch(t.Context(), "Pipeline", "", 5) {
		last = err
	}
	if !errors.Is(last, client.ErrRevisionCompacted) {
		t.Fatalf("error %v does not match ErrRevisionCompacted", last)
	}
}
