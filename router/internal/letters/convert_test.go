package letters_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/router/internal/letters"
)

func TestLetters_KeepEverythingThroughTheStoresForm(t *testing.T) {
	for _, partition := range []string{"", "0", "a/b/c"} {
		want := &controlv1.Letter{
			Record:    &conveyorv1.Record{Id: "default/in/0/7", Key: []byte("k"), Payload: []byte("p"), Headers: []*conveyorv1.Header{{Name: "h", Value: []byte("v")}}},
			Namespace: "default", Pipeline: "p", Generation: 3, Stage: "s", Edge: "in", Source: "default/in", Partition: partition,
			Class: conveyorv1.FailureClass_FAILURE_CLASS_NOT_TRIED, Code: "C", Message: "m", Replays: 2, Service: "default/s", ServiceVersion: "1",
			Attempts: []*controlv1.Attempt{{At: timestamppb.New(time.Unix(5, 6)), Code: "A", Message: "am"}}, StoredAt: timestamppb.New(time.Unix(7, 8)),
		}
		stored, err := letters.ToStore(want)
		if err != nil {
			t.Fatal(err)
		}
		stored.StoredAt = time.Unix(7, 8)
		got, err := letters.FromStore(&stored)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	}
}
