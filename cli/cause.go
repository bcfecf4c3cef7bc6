package cli

import (
	"fmt"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// blocker is the stage that keeps a pipeline from going on, and why.
type blocker struct {
	stage   string
	service string
	cause   string
}

// findBlocker looks for what a pipeline waits for, beginning at the sinks: a stage that cannot go on stops all before it, so that the last one is the cause.
func findBlocker(s *controlv1.PipelineStatus) (blocker, bool) {
	stages := s.GetStages()
	for i := len(stages) - 1; i >= 0; i-- {
		if st := stages[i]; st.GetWaitingFor() != "" {
			return blocker{stage: st.GetName(), service: st.GetService(), cause: output.Cause(st.GetWaitingFor())}, true
		}
	}
	for _, l := range s.GetLanes() {
		if l.GetProblem() != "" {
			return blocker{stage: l.GetSourceStage(), service: l.GetSource(), cause: output.Cause(l.GetProblem())}, true
		}
	}
	for i := len(stages) - 1; i >= 0; i-- {
		if st := stages[i]; !st.GetOpen() {
			return blocker{stage: st.GetName(), service: st.GetService(), cause: "the stage is not open"}, true
		}
	}
	for i := len(stages) - 1; i >= 0; i-- {
		if st := stages[i]; st.GetInFlight() > 0 {
			return blocker{
				stage: st.GetName(), service: st.GetService(),
				cause: fmt.Sprintf("%d records are in flight there and none is answered", st.GetInFlight()),
			}, true
		}
	}
	for _, c := range s.GetConditions() {
		if c.GetMessage() != "" {
			return blocker{cause: c.GetMessage()}, true
		}
	}
	return blocker{}, false
}

// why is the blocker as the end of a sentence, or "".
func why(s *controlv1.PipelineStatus) string {
	b, ok := findBlocker(s)
	switch {
	case !ok:
		return ""
	case b.stage == "":
		return ": " + b.cause
	default:
		return fmt.Sprintf(": stage %s waits for %s", b.stage, b.cause)
	}
}
