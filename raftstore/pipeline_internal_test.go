package raftstore

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// refusing is a stream to a peer that refuses every entry.
type refusing struct {
	grpc.BidiStreamingClient[controlv1.AppendEntriesRequest, controlv1.AppendEntriesResponse]
	ctx context.Context
}

func (refusing) Send(*controlv1.AppendEntriesRequest) error { return nil }

func (r refusing) Recv() (*controlv1.AppendEntriesResponse, error) {
	if r.ctx.Err() != nil {
		return nil, io.EOF
	}
	return &controlv1.AppendEntriesResponse{Term: 1}, nil
}

// Raft reads no answer behind a refusal, and goes on with other calls when it can send no more.
func TestPipeline_AfterARefusalNothingIsSentAndNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipeline{
			t: &transport{self: &self{}, heard: newContacts()}, sent: make(chan *appending, pipelined), done: make(chan raft.AppendFuture, pipelined),
		}
		p.ctx, p.cancel = context.WithCancel(t.Context())
		p.stream = refusing{ctx: p.ctx}
		p.wg.Go(p.receive)
		var err error
		for range 10 {
			if _, err = p.AppendEntries(&raft.AppendEntriesRequest{Term: 1}, &raft.AppendEntriesResponse{}); err != nil {
				break
			}
			synctest.Wait()
		}
		if err == nil {
			t.Error("requests are taken behind one that was refused")
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
}

// unreadable is a machine that cannot restore what another one wrote.
type unreadable struct{ StateMachine }

func (unreadable) Restore(io.Reader) error { return errors.New("of a later version") }

func TestMachine_ASnapshotThatCannotBeRestoredEndsTheServer(t *testing.T) {
	f := &fsm{machine: unreadable{}, failed: make(chan struct{})}
	if err := f.Restore(described{io.NopCloser(strings.NewReader("")), &raft.SnapshotMeta{Index: 7}}); err == nil {
		t.Fatal("restored")
	}
	select {
	case <-f.failed:
	default:
		t.Error("the server goes on with a state that is nobody's")
	}
	var halted *HaltedError
	if got, ok := f.Apply(&raft.Log{Index: 8, Data: seal([]byte("a"))}).(error); !ok || !errors.As(got, &halted) || !strings.Contains(halted.Reason, "later version") {
		t.Errorf("the next command: %v", got)
	}
	if _, err := f.Snapshot(); err == nil {
		t.Error("a snapshot was written of it")
	}
}
