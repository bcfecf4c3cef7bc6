package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/control"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// replicas are the machines of the routers of a cluster, in step.
type replicas struct {
	control.Store
	machines []*state.Machine
	index    uint64
	stamps   []int64
}

func (r *replicas) Propose(_ context.Context, b []byte) (raftstore.Result, error) {
	var cmd statepb.Command
	if err := proto.Unmarshal(b, &cmd); err != nil {
		return raftstore.Result{}, err
	}
	r.index++
	r.stamps = append(r.stamps, cmd.GetAtUnixNano())
	var value any
	for _, m := range r.machines {
		value = m.Apply(r.index, b)
	}
	return raftstore.Result{Index: r.index, Value: value}, nil
}

// drawStamped is a change that leaves a time, takes one away, or neither.
func drawStamped(t *rapid.T) *statepb.Command {
	name := fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "name"))
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		return &statepb.Command{Kind: &statepb.Command_PutResources{PutResources: &statepb.PutResources{Resources: []*statepb.PutResource{{Kind: "Source", Name: name, Uid: "u"}}}}}
	case 1:
		return &statepb.Command{Kind: &statepb.Command_DeleteResource{DeleteResource: &statepb.DeleteResource{Kind: "Source", Name: name}}}
	case 2:
		return &statepb.Command{Kind: &statepb.Command_OpenSession{OpenSession: &statepb.OpenSession{SidecarId: name, Address: "x:1"}}}
	}
	return &statepb.Command{Kind: &statepb.Command_StoreCheckpoints{StoreCheckpoints: &statepb.StoreCheckpoints{SidecarId: name}}}
}

// Leaders follow one another whose clocks are years apart and are set meanwhile, and routers start from snapshots.
func TestStamp_TimesDoNotGoBackWhateverTheClocksOfLeadersSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const routers = 3
		log := &replicas{}
		clocks := make([]time.Time, routers)
		var controllers []*control.Controller
		start := func(i int, m *state.Machine) *control.Controller {
			c := control.New(control.Config{SessionTTL: time.Hour, Logger: slog.New(slog.DiscardHandler)}, log, m)
			c.SetClock(func() time.Time { return clocks[i] })
			return c
		}
		for i := range routers {
			log.machines = append(log.machines, state.New())
			clocks[i] = time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "clock"), 0)
			controllers = append(controllers, start(i, log.machines[i]))
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			i := rapid.IntRange(0, routers-1).Draw(t, "router")
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				clocks[i] = time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "clock"), 0)
			case 1:
				write, err := log.machines[i].Snapshot()
				if err != nil {
					t.Fatal(err)
				}
				var b bytes.Buffer
				if err := write(&b); err != nil {
					t.Fatal(err)
				}
				m := state.New()
				if err := m.Restore(&b); err != nil {
					t.Fatal(err)
				}
				log.machines[i], controllers[i] = m, start(i, m)
				// Of what is not there any more nobody sees a time.
				log.stamps = append(log.stamps[:0], shown(m.View())...)
			default:
				clocks[i] = clocks[i].Add(time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "passes")))
				before := log.machines[i].Latest()
				var refused *state.RejectedError
				if _, err := controllers[i].Propose(t.Context(), drawStamped(t)); err != nil && !errors.As(err, &refused) {
					t.Fatal(err)
				}
				made := log.stamps[len(log.stamps)-1]
				for _, earlier := range log.stamps {
					if made < earlier {
						t.Fatalf("router %d, whose clock shows %v, made a command of %v after one of %v", i, clocks[i].UTC(), time.Unix(0, made).UTC(), time.Unix(0, earlier).UTC())
					}
				}
				if now := clocks[i].UnixNano(); made > max(now, before) {
					t.Fatalf("a time that nobody's clock has shown: %v", time.Unix(0, made).UTC())
				}
			}
		}
	})
}

// shown are the times that people are shown of.
func shown(v *state.View) []int64 {
	var out []int64
	for _, r := range v.Resources {
		out = append(out, r.GetCreatedAtUnixNano(), r.GetUpdatedAtUnixNano())
	}
	for _, s := range v.Sessions {
		out = append(out, s.GetRegisteredAtUnixNano())
	}
	return out
}
