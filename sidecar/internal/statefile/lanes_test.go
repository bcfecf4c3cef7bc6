package statefile_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/sidecar/internal/statefile"
)

func assignment(index uint64) *controlv1.Assignment {
	return &controlv1.Assignment{Pipeline: "default/p", Generation: 1, Stage: "in", Epoch: &conveyorv1.Epoch{Incarnation: 1, Index: index}}
}

func checkpoint(index uint64, partition, position string) *controlv1.Checkpoint {
	return &controlv1.Checkpoint{
		Pipeline: "default/p", Generation: 1, SourceStage: "in", Epoch: &conveyorv1.Epoch{Incarnation: 1, Index: index},
		Partition: partition, Position: []byte(position),
	}
}

func TestLanes_TheNextProcessKnowsTheLastCheckpointsOfItsAssignmentsAndNoOthers(t *testing.T) {
	root, runs := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		dir := filepath.Join(root, fmt.Sprint(runs))
		boots := uint64(0)
		model := map[uint64]map[string]string{}
		open := func() *statefile.File {
			f, err := statefile.Open(dir, "a", nil)
			if err != nil {
				t.Fatal(err)
			}
			if b := f.State().Boots; b <= boots {
				t.Fatalf("boot %d after %d", b, boots)
			}
			boots = f.State().Boots
			for index := range uint64(4) {
				left, ok := f.Left(assignment(index))
				want, began := model[index]
				if ok != began || len(left) != len(want) {
					t.Fatalf("epoch %d: left are %v %v, want %v %v", index, left, ok, want, began)
				}
				for _, c := range left {
					if string(c.GetPosition()) != want[c.GetPartition()] {
						t.Fatalf("epoch %d: partition %s is at %s, want %s", index, c.GetPartition(), c.GetPosition(), want[c.GetPartition()])
					}
				}
			}
			return f
		}
		f := open()
		defer func() { f.Close() }()
		for i := range rapid.IntRange(1, 12).Draw(t, "steps") {
			index := rapid.Uint64Range(0, 3).Draw(t, "epoch")
			var err error
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				err = f.Began(assignment(index), []*controlv1.Checkpoint{checkpoint(9, "0", fmt.Sprint("b", i))})
				model[index] = map[string]string{"0": fmt.Sprint("b", i)}
			case 1, 2:
				partition := rapid.SampledFrom([]string{"0", "1"}).Draw(t, "partition")
				position := rapid.SampledFrom([]string{"", fmt.Sprint("s", i)}).Draw(t, "position")
				err = f.Stored([]*controlv1.Checkpoint{checkpoint(index, partition, position)})
				if points, began := model[index]; began && (position != "" || points[partition] == "") {
					points[partition] = position
				}
			case 3:
				err = f.Record(registration, statefile.Place{}, &controlv1.WatchAssignmentsResponse{Assignments: []*controlv1.Assignment{assignment(index)}})
				for other := range model {
					if other != index {
						delete(model, other)
					}
				}
			case 4:
				if err = f.Close(); err == nil {
					f = open()
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		f = open()
	})
}

func TestLanes_DamageIsReportedAndAnEndedSessionIsForgotten(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir, "a", "")
	if err := f.Record(registration, statefile.Place{}, &controlv1.WatchAssignmentsResponse{Assignments: []*controlv1.Assignment{assignment(1)}}); err != nil {
		t.Fatal(err)
	}
	if err := f.Began(assignment(1), nil); err != nil {
		t.Fatal(err)
	}
	f = reopen(t, f, dir, "a", "")
	if _, ok := f.Left(assignment(1)); !ok {
		t.Fatal("the lanes are not remembered")
	}
	if err := f.Forget(); err != nil {
		t.Fatal(err)
	}
	f = reopen(t, f, dir, "a", "")
	if _, ok := f.Left(assignment(1)); ok || f.State().Registration != nil || f.State().Desired != nil || f.State().Boots != 3 {
		t.Errorf("after the session has ended it remembers %+v", f.State())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "lanes")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = statefile.Open(dir, "a", nil)
	if corrupt := (*statefile.CorruptError)(nil); !errors.As(err, &corrupt) || corrupt.Path != path {
		t.Errorf("got %v", err)
	}
}
