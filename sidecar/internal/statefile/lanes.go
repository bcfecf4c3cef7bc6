package statefile

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// lanesName is the name of the file of the lanes, which is written far more often than the state.
const lanesName = "lanes"

// reader is a source stage under one assignment.
type reader struct {
	Pipeline    string `json:"pipeline"`
	Generation  uint64 `json:"generation"`
	Stage       string `json:"stage"`
	Incarnation uint64 `json:"incarnation"`
	Index       uint64 `json:"index"`
}

func readerOf(pipeline string, generation uint64, stage string, epoch *conveyorv1.Epoch) reader {
	return reader{pipeline, generation, stage, epoch.GetIncarnation(), epoch.GetIndex()}
}

func assigned(a *controlv1.Assignment) reader {
	return readerOf(a.GetPipeline(), a.GetGeneration(), a.GetStage(), a.GetEpoch())
}

// storedReader is the form of a reader in the file.
type storedReader struct {
	Reader      reader   `json:"reader"`
	Checkpoints [][]byte `json:"checkpoints,omitempty"` // protobuf
}

// lanes keeps the last checkpoints that the routers took of what is read here.
type lanes struct {
	path string
	// left is what earlier processes wrote; it does not change.
	left map[reader]map[string]*controlv1.Checkpoint

	mu  sync.Mutex
	now map[reader]map[string]*controlv1.Checkpoint // by partition; guarded by mu
}

func openLanes(path string) (*lanes, error) {
	var form []storedReader
	if err := load(path, &form); err != nil {
		return nil, err
	}
	l := &lanes{path: path, left: make(map[reader]map[string]*controlv1.Checkpoint), now: make(map[reader]map[string]*controlv1.Checkpoint)}
	for _, r := range form {
		points := make(map[string]*controlv1.Checkpoint, len(r.Checkpoints))
		for _, data := range r.Checkpoints {
			c := &controlv1.Checkpoint{}
			if err := proto.Unmarshal(data, c); err != nil {
				return nil, &CorruptError{Path: path, Reason: fmt.Sprintf("a checkpoint cannot be read: %v", err)}
			}
			points[c.GetPartition()] = c
		}
		l.left[r.Reader], l.now[r.Reader] = points, maps.Clone(points)
	}
	return l, nil
}

// write puts next on the disk and in effect. Called with the lock.
func (l *lanes) write(next map[reader]map[string]*controlv1.Checkpoint) error {
	form := make([]storedReader, 0, len(next))
	for r, points := range next {
		stored := storedReader{Reader: r}
		for _, c := range points {
			data, err := proto.Marshal(c)
			if err != nil {
				return fmt.Errorf("write state file %s: %w", l.path, err)
			}
			stored.Checkpoints = append(stored.Checkpoints, data)
		}
		form = append(form, stored)
	}
	if err := write(l.path, form); err != nil {
		return err
	}
	l.now = next
	return nil
}

// retain forgets the lanes of all but the given assignments.
func (l *lanes) retain(assignments []*controlv1.Assignment) error {
	keep := make(map[reader]bool, len(assignments))
	for _, a := range assignments {
		keep[assigned(a)] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	next := maps.Clone(l.now)
	maps.DeleteFunc(next, func(r reader, _ map[string]*controlv1.Checkpoint) bool { return !keep[r] })
	if len(next) == len(l.now) {
		return nil
	}
	return l.write(next)
}

// Left returns what an earlier process knew of the lanes of a source that it read under this very assignment; false when it read none.
func (f *File) Left(a *controlv1.Assignment) ([]*controlv1.Checkpoint, bool) {
	points, ok := f.lanes.left[assigned(a)]
	return slices.Collect(maps.Values(points)), ok
}

// Began notes where the lanes of an assigned source begin; it is on disk when Began returns without an error.
func (f *File) Began(a *controlv1.Assignment, checkpoints []*controlv1.Checkpoint) error {
	points := make(map[string]*controlv1.Checkpoint, len(checkpoints))
	for _, c := range checkpoints {
		points[c.GetPartition()] = c
	}
	f.lanes.mu.Lock()
	defer f.lanes.mu.Unlock()
	next := maps.Clone(f.lanes.now)
	next[assigned(a)] = points
	return f.lanes.write(next)
}

// Stored notes checkpoints that the routers took, of lanes that began; they are on disk when Stored returns without an error.
func (f *File) Stored(checkpoints []*controlv1.Checkpoint) error {
	f.lanes.mu.Lock()
	defer f.lanes.mu.Unlock()
	next := maps.Clone(f.lanes.now)
	changed := make(map[reader]bool)
	for _, c := range checkpoints {
		r := readerOf(c.GetPipeline(), c.GetGeneration(), c.GetSourceStage(), c.GetEpoch())
		points, began := next[r]
		if !began {
			continue
		}
		if !changed[r] {
			points, changed[r] = maps.Clone(points), true
			next[r] = points
		}
		if before := points[c.GetPartition()]; len(c.GetPosition()) == 0 && before != nil {
			// As in the routers, an empty position never replaces a stored one.
			c = proto.CloneOf(c)
			c.Position = before.GetPosition()
		}
		points[c.GetPartition()] = c
	}
	if len(changed) == 0 {
		return nil
	}
	return f.lanes.write(next)
}
