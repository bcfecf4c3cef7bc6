package client_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// discarder counts the discards that reach it, and holds each until its context ends if it is told to.
type discarder struct {
	controlv1.UnimplementedAdminServiceServer
	controlv1.UnimplementedDeadLetterServiceServer
	revision uint64
	began    chan struct{} // nil answers at once
	discards atomic.Int64
}

func (d *discarder) ListResources(context.Context, *controlv1.ListResourcesRequest) (*controlv1.ListResourcesResponse, error) {
	return &controlv1.ListResourcesResponse{Revision: d.revision}, nil
}

func (d *discarder) DiscardLetters(ctx context.Context, _ *controlv1.DiscardLettersRequest) (*controlv1.DiscardLettersResponse, error) {
	d.discards.Add(1)
	if d.began != nil {
		close(d.began)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &controlv1.DiscardLettersResponse{Discarded: 1}, nil
}

func TestDiscard_IsNotRepeatedWhereAnotherCallFindsTheRouterGoneFirst(t *testing.T) {
	dying, other := &discarder{revision: 1, began: make(chan struct{})}, &discarder{revision: 2}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	controlv1.RegisterAdminServiceServer(srv, dying)
	controlv1.RegisterDeadLetterServiceServer(srv, dying)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(lis) })
	t.Cleanup(func() { srv.Stop(); wg.Wait() })
	c := dial(t, []string{lis.Addr().String(), serveAt(t, "127.0.0.1:0", other, other, &router{})})

	var discardErr error
	var discard sync.WaitGroup
	discard.Go(func() { _, discardErr = c.DiscardLetters(t.Context(), &controlv1.LetterFilter{Namespace: "default"}) })
	<-dying.began
	// It takes no more connections, and the one that the discard is on ends with the discard.
	wg.Go(srv.GracefulStop)
	for {
		_, revision, err := c.List(t.Context(), "Pipeline", "")
		if err != nil {
			t.Fatal(err)
		}
		if revision == other.revision {
			break // the router that has the discard was dialled, and not reached
		}
	}
	srv.Stop()
	discard.Wait()
	if !errors.Is(discardErr, client.ErrUnreachable) {
		t.Errorf("a discard without an answer ended with %v", discardErr)
	}
	if first, second := dying.discards.Load(), other.discards.Load(); first != 1 || second != 0 {
		t.Errorf("one discard reached a router %d times, and then another %d times", first, second)
	}
}
