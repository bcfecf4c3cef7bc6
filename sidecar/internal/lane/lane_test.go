package lane_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
	"github.com/conveyor-etl/conveyor/sidecar/internal/lane"
)

// model is a lane as the guarantee tells of it: one flag for each record.
type model struct {
	positions []string // by sequence - 1; empty where no commit may stop
	settled   []bool
	outcomes  [flow.Outcomes]uint64
}

func (m *model) through() uint64 {
	n := uint64(0)
	for n < uint64(len(m.settled)) && m.settled[n] {
		n++
	}
	return n
}

// point returns the last place at which a commit may stop.
func (m *model) point() (uint64, string) {
	for n := m.through(); n > 0; n-- {
		if p := m.positions[n-1]; p != "" {
			return n, p
		}
	}
	return 0, ""
}

func TestTheWatermarkNeverPassesAHole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		moves := 0
		tracker := lane.NewTracker(0, func() { moves++ })
		m := &model{}
		reported := uint64(0)
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "event") {
			case 0, 1:
				var bytes []byte
				var ends []uint32
				n := rapid.IntRange(1, 9).Draw(t, "read")
				first := uint64(len(m.settled) + 1)
				for i := range n {
					p := ""
					if rapid.IntRange(0, 2).Draw(t, "inside a unit") > 0 {
						p = fmt.Sprint("p", first+uint64(i))
					}
					bytes = append(bytes, p...)
					ends = append(ends, uint32(len(bytes)))
					m.positions, m.settled = append(m.positions, p), append(m.settled, false)
				}
				if got := tracker.Read(bytes, ends); got != first {
					t.Fatalf("first sequence %d, want %d", got, first)
				}
			case 2, 3, 4:
				from := rapid.IntRange(0, len(m.settled)).Draw(t, "from")
				for from < len(m.settled) && m.settled[from] {
					from++
				}
				to := from
				for most := rapid.IntRange(1, 12).Draw(t, "settled"); to < len(m.settled) && !m.settled[to] && to-from < most; to++ {
					m.settled[to] = true
				}
				if from == to {
					continue
				}
				o := flow.Outcome(rapid.IntRange(1, int(flow.Outcomes)-1).Draw(t, "outcome"))
				m.outcomes[o] += uint64(to - from)
				before, moved := tracker.SettledThrough(), moves
				tracker.Settle(uint64(from+1), to-from, o)
				if (tracker.SettledThrough() > before) != (moves > moved) {
					t.Fatalf("watermark from %d to %d, told %d times", before, tracker.SettledThrough(), moves-moved)
				}
			case 5:
				seq, position := m.point()
				p, ok := tracker.Checkpoint()
				if ok != (seq > reported) {
					t.Fatalf("checkpoint %v, although the last was %d and the newest is %d", ok, reported, seq)
				}
				if !ok {
					continue
				}
				if p.Sequence != seq || string(p.Position) != position {
					t.Fatalf("checkpoint at %d %q, want %d %q", p.Sequence, p.Position, seq, position)
				}
				if rapid.Bool().Draw(t, "stored") {
					reported = seq
				} else {
					tracker.Restore(p)
					if again, ok := tracker.Checkpoint(); !ok || again.Sequence != seq {
						t.Fatalf("what was not stored does not come again: %v %v", again, ok)
					}
					reported = seq
				}
			}
			if got := tracker.SettledThrough(); got != m.through() {
				t.Fatalf("settled through %d, want %d", got, m.through())
			}
			if seq, position := m.point(); tracker.Last().Sequence != seq || string(tracker.Last().Position) != position {
				t.Fatalf("commit point %v, want %d %q", tracker.Last(), seq, position)
			}
			if got, want := tracker.Span(), uint64(len(m.settled))-m.through(); got != want || tracker.Idle() != (want == 0) {
				t.Fatalf("span %d idle %v, want %d", got, tracker.Idle(), want)
			}
			// The law: what was read has ended in one outcome or is in flight.
			c := tracker.Counts()
			open := uint64(0)
			for _, s := range m.settled {
				if !s {
					open++
				}
			}
			if c.Read != uint64(len(m.settled)) || c.Outcomes != m.outcomes || c.InFlight() != open {
				t.Fatalf("counts %+v in flight %d; want %d, %v, %d", c, c.InFlight(), len(m.settled), m.outcomes, open)
			}
		}
	})
}

func TestSettlingWhatIsNotInFlightPanics(t *testing.T) {
	for name, settle := range map[string]func(*lane.Tracker){
		"not read":  func(tr *lane.Tracker) { tr.Settle(4, 1, flow.Dead) },
		"long ago":  func(tr *lane.Tracker) { tr.Settle(1, 3, flow.Dead); tr.Settle(1, 1, flow.Dead) },
		"a moment ": func(tr *lane.Tracker) { tr.Settle(2, 1, flow.Dead); tr.Settle(2, 1, flow.Dead) },
	} {
		t.Run(name, func(t *testing.T) {
			tr := lane.NewTracker(0, func() {})
			tr.Read(nil, make([]uint32, 3))
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			settle(tr)
		})
	}
}
