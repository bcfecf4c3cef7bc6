package control

import (
	"testing"
	"time"
)

func TestIdleClients_OnlyWhatIsUnusedForTheWholeTimeIsIdle(t *testing.T) {
	c := idleClients{after: time.Hour}
	start := time.Now()
	at := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }
	for _, step := range []struct {
		minute   int
		sessions map[uint64]uint64
		want     int
	}{
		{0, map[uint64]uint64{1: 1, 2: 2}, 0},
		{50, map[uint64]uint64{1: 9, 2: 2}, 0}, // session 1 was used
		{61, map[uint64]uint64{1: 9, 2: 2}, 1},
		{62, map[uint64]uint64{1: 9}, 0},
		{111, map[uint64]uint64{1: 9, 3: 70}, 1},
	} {
		got := c.idle(step.sessions, at(step.minute))
		if len(got) != step.want {
			t.Errorf("minute %d: idle %v, want %d", step.minute, got, step.want)
		}
		for id, index := range got {
			if step.sessions[id] != index {
				t.Errorf("minute %d: session %d ends on condition of %d", step.minute, id, index)
			}
		}
	}
}
