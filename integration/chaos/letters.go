package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// DeadLetter is a record of a pipeline that failed, under an id.
func DeadLetter(pipeline, id string) *controlv1.Letter {
	return &controlv1.Letter{
		Record: &conveyorv1.Record{Id: id, Payload: []byte("payload of " + id)}, Namespace: "default", Pipeline: pipeline, Generation: 1, Stage: "out",
		Source: "default/in", Partition: "0", Class: conveyorv1.FailureClass_FAILURE_CLASS_PERMANENT, Code: "X", Message: "no",
	}
}

// letters is those of one pipeline that were acknowledged. It belongs to the goroutine of run until that has ended.
type letters struct {
	pipeline string
	stored   []string
}

// run stores one letter after the other, as a sidecar that comes back under another name whenever something fails.
func (l *letters) run(ctx context.Context, c *client.Client) {
	var session *controlv1.Session
	for i := 0; ctx.Err() == nil; i++ {
		id := fmt.Sprintf("%s-%d", l.pipeline, i)
		if session == nil {
			if resp, err := c.Register(ctx, &controlv1.RegisterRequest{SidecarId: id, Address: "127.0.0.1:1", Version: "test"}); err == nil {
				session = resp.GetSession()
			}
		}
		if session != nil {
			if _, err := c.StoreDeadLetters(ctx, session, []*controlv1.Letter{DeadLetter(l.pipeline, id)}); err == nil {
				l.stored = append(l.stored, id)
			} else {
				session = nil
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(think):
		}
	}
}

// judge fails the test when a list of the letters lacks one that was acknowledged.
func (l *letters) judge(t testing.TB, c *client.Client) {
	t.Helper()
	listed := map[string]bool{}
	proc.Until(t, func() string {
		clear(listed)
		for letter, err := range c.Letters(t.Context(), &controlv1.LetterFilter{Namespace: "default", Pipeline: l.pipeline}, 0) {
			if err != nil {
				return err.Error()
			}
			listed[letter.GetRecord().GetId()] = true
		}
		return ""
	})
	missing := 0
	for _, id := range l.stored {
		if !listed[id] {
			if missing++; missing <= maxProblems {
				t.Errorf("letter %s was acknowledged and is not there", id)
			}
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d acknowledged letters are missing", missing, len(l.stored))
	}
}
