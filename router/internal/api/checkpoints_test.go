package api_test

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/api"
	"github.com/conveyor-etl/conveyor/router/internal/control"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// slow is the log of a cluster that stores nothing before it is told to.
type slow struct {
	control.Store
	machine *state.Machine
	open    chan struct{}

	mu     sync.Mutex
	index  uint64
	stored map[string]int // commands, by sidecar
}

func (s *slow) Propose(ctx context.Context, b []byte) (raftstore.Result, error) {
	select {
	case <-s.open:
	case <-ctx.Done():
		return raftstore.Result{}, ctx.Err()
	}
	var cmd statepb.Command
	if err := proto.Unmarshal(b, &cmd); err != nil {
		return raftstore.Result{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index++
	s.stored[cmd.GetStoreCheckpoints().GetSidecarId()]++
	return raftstore.Result{Index: s.index, Value: s.machine.Apply(s.index, b)}, nil
}

func (*slow) LeadershipChanges(context.Context) iter.Seq[raftstore.Leadership] { return nil }

// behind starts a coordinator behind a log, with the sessions of some sidecars.
func behind(t *testing.T, sidecars ...string) (*slow, controlv1.SidecarCoordinatorServer, map[string]*controlv1.Session) {
	t.Helper()
	log := &slow{machine: state.New(), open: make(chan struct{}), stored: map[string]int{}}
	sessions := map[string]*controlv1.Session{}
	for _, id := range sidecars {
		b, err := proto.Marshal(&statepb.Command{Kind: &statepb.Command_OpenSession{OpenSession: &statepb.OpenSession{SidecarId: id, Address: "x:1"}}})
		if err != nil {
			t.Fatal(err)
		}
		log.index++
		log.machine.Apply(log.index, b)
		sessions[id] = &controlv1.Session{SidecarId: id, Epoch: log.index}
	}
	quiet := slog.New(slog.DiscardHandler)
	ctl := control.New(control.Config{SessionTTL: time.Minute, Logger: quiet}, log, log.machine)
	return log, api.NewCoordinator(api.Config{Controller: ctl, Machine: log.machine, SessionTTL: time.Minute, HeartbeatEvery: time.Second, Logger: quiet}), sessions
}

func TestReports_ThatExceedTheBoundComeAgainAndHeartbeatsWaitForNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, coord, sessions := behind(t, "a", "leaves", "late")
		const size = 1 << 20
		report := func(ctx context.Context, id string, checkpoints int) error {
			req := &controlv1.ReportCheckpointsRequest{Session: sessions[id]}
			for range checkpoints {
				req.Checkpoints = append(req.Checkpoints, &controlv1.Checkpoint{Pipeline: "default/p", SourceStage: "in", Position: make([]byte, 4000)})
			}
			_, err := coord.ReportCheckpoints(ctx, req)
			return err
		}
		var wg sync.WaitGroup
		// These are carried out, for as long as the log takes.
		for range api.Storing {
			wg.Go(func() {
				if err := report(t.Context(), "a", 1); err != nil {
					t.Errorf("one of those that were let in: %v", err)
				}
			})
		}
		synctest.Wait()
		ctx, leave := context.WithCancel(t.Context())
		wg.Go(func() {
			if err := report(ctx, "leaves", 1); status.Code(err) != codes.Canceled {
				t.Errorf("who left while it waited: %v", err)
			}
		})
		for range api.CheckpointsWaiting/size - 1 {
			wg.Go(func() {
				if err := report(t.Context(), "a", size/4100); err != nil {
					t.Errorf("one of those that wait: %v", err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		mustBeBusy(t, report(t.Context(), "late", 2*size/4100))
		if _, err := coord.Heartbeat(t.Context(), &controlv1.HeartbeatRequest{Session: sessions["late"]}); err != nil {
			t.Errorf("a heartbeat meanwhile: %v", err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("a refusal and a heartbeat took %v", took)
		}
		leave()
		synctest.Wait()
		close(log.open)
		wg.Wait()
		if err := report(t.Context(), "late", 1); err != nil {
			t.Errorf("who comes again: %v", err)
		}
		if log.stored["leaves"] != 0 || log.stored["late"] != 1 {
			t.Errorf("stored %v", log.stored)
		}
	})
}
