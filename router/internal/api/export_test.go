package api

import (
	"context"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

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

// NewCoordinator answers sidecars.
func NewCoordinator(cfg Config) controlv1.SidecarCoordinatorServer { return newCoordinator(cfg) }

// Storing reports of checkpoints are carried out at a time, and CheckpointsWaiting bytes of them may wait.
const (
	Storing            = storing
	CheckpointsWaiting = checkpointsWaiting
)
