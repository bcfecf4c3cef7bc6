package api

import "context"

// ToWire is the table of errors, for its test.
var ToWire = toWire

// NewAdmission and CheckpointPause are for their tests.
var (
	NewAdmission    = newAdmission
	CheckpointPause = checkpointPause
)

// Enter waits for a place.
func (a *admission) Enter(ctx context.Context, bytes int) (leave func(), err error) {
	return a.enter(ctx, bytes)
}

// Waiting is how many bytes wait.
func (a *admission) Waiting() int { return int(a.waiting.Load()) }
