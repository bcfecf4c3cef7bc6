package letters

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/conveyor-etl/conveyor/dlq"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// CodeCorrupt is the code of a letter whose stored bytes are damaged: only its id is known.
const CodeCorrupt = "LETTER_CORRUPT"

const classPrefix = "FAILURE_CLASS_"

// ToStore turns a letter of the API into one of the store.
func ToStore(l *controlv1.Letter) (dlq.Letter, error) {
	record, err := proto.Marshal(l.GetRecord())
	if err != nil {
		return dlq.Letter{}, fmt.Errorf("encode the record of a dead letter: %w", err)
	}
	out := dlq.Letter{
		RecordID: l.GetRecord().GetId(), Namespace: l.GetNamespace(), Pipeline: l.GetPipeline(), Generation: l.GetGeneration(), Stage: l.GetStage(), Edge: l.GetEdge(),
		// The source is namespace/name, so the second slash ends it.
		Lane:  l.GetSource() + "/" + l.GetPartition(),
		Class: strings.ToLower(strings.TrimPrefix(l.GetClass().String(), classPrefix)), Code: l.GetCode(), Message: l.GetMessage(),
		AttemptCount: uint32(len(l.GetAttempts())), Replays: l.GetReplays(), Service: l.GetService(), ServiceVersion: l.GetServiceVersion(), Record: record,
	}
	for _, a := range l.GetAttempts() {
		out.Attempts = append(out.Attempts, dlq.Attempt{Time: a.GetAt().AsTime(), Code: a.GetCode(), Message: a.GetMessage()})
	}
	return out, nil
}

// FromStore turns a letter of the store into one of the API.
func FromStore(l *dlq.Letter) (*controlv1.Letter, error) {
	var record conveyorv1.Record
	if err := proto.Unmarshal(l.Record, &record); err != nil {
		return nil, fmt.Errorf("decode the record of dead letter %d: %w", l.ID, err)
	}
	source, partition := splitLane(l.Lane)
	out := &controlv1.Letter{
		Id: l.ID, Record: &record, Namespace: l.Namespace, Pipeline: l.Pipeline, Generation: l.Generation, Stage: l.Stage, Edge: l.Edge,
		Source: source, Partition: partition,
		Class: conveyorv1.FailureClass(conveyorv1.FailureClass_value[classPrefix+strings.ToUpper(l.Class)]), Code: l.Code, Message: l.Message,
		Replays: l.Replays, Service: l.Service, ServiceVersion: l.ServiceVersion, StoredAt: timestamppb.New(l.StoredAt),
	}
	for _, a := range l.Attempts {
		out.Attempts = append(out.Attempts, &controlv1.Attempt{At: timestamppb.New(a.Time), Code: a.Code, Message: a.Message})
	}
	return out, nil
}

// Corrupt stands for a letter that is damaged.
func Corrupt(e *dlq.CorruptError) *controlv1.Letter {
	return &controlv1.Letter{Id: e.ID, Code: CodeCorrupt, Message: e.Error()}
}

func splitLane(lane string) (source, partition string) {
	namespace, rest, ok := strings.Cut(lane, "/")
	if !ok {
		return lane, ""
	}
	name, partition, _ := strings.Cut(rest, "/")
	if namespace == "" && name == "" {
		return "", partition
	}
	return namespace + "/" + name, partition
}
