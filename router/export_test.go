package router

import (
	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// LetterMark is where a router keeps the mark of its letters.
func LetterMark(r *Router) dlq.Mark { return letterMark{r} }

// FlipState changes the state of one router, as a memory that fails does.
func FlipState(r *Router) error {
	cmd, err := proto.Marshal(&statepb.Command{Kind: &statepb.Command_PutResources{PutResources: &statepb.PutResources{
		Resources: []*statepb.PutResource{{Kind: "Source", Namespace: "default", Name: "flipped"}},
	}}})
	if err == nil {
		r.machine.Apply(r.machine.Index(), cmd)
	}
	return err
}
