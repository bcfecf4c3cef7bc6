package api

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

const (
	maxCheckpoints      = 20_000
	maxPositionBytes    = 4 << 10
	maxPartitionBytes   = 1 << 10
	checkpointBatchSize = 256 << 10 // of one command
	checkpointOverhead  = 64
)

// ReadCheckpoints implements controlv1.SidecarCoordinatorServer.
func (c *coordinator) ReadCheckpoints(ctx context.Context, req *controlv1.ReadCheckpointsRequest) (*controlv1.ReadCheckpointsResponse, error) {
	if err := c.Store.Read(ctx); err != nil {
		return nil, toWire(err)
	}
	if err := c.session(req.GetSession()); err != nil {
		return nil, err
	}
	if err := c.owns(req.GetSession(), req.GetPipeline(), req.GetSourceStage()); err != nil {
		return nil, err
	}
	resp := &controlv1.ReadCheckpointsResponse{}
	for _, cp := range c.Machine.Checkpoints(req.GetPipeline(), req.GetSourceStage()) {
		resp.Checkpoints = append(resp.Checkpoints, &controlv1.Checkpoint{
			Pipeline: cp.GetPipeline(), SourceStage: cp.GetSourceStage(), Partition: cp.GetPartition(), Generation: cp.GetGeneration(),
			Epoch:    &conveyorv1.Epoch{Incarnation: cp.GetIncarnation(), Index: cp.GetIndex()},
			Sequence: cp.GetSequence(), Position: cp.GetPosition(), Ended: cp.GetEnded(),
		})
	}
	// The first listing of a source ends with checkpoints of the positions at which its partitions opened.
	resp.Listed = len(resp.GetCheckpoints()) > 0
	return resp, nil
}

// ReportCheckpoints implements controlv1.SidecarCoordinatorServer. An accepted checkpoint is on stable storage when this returns.
func (c *coordinator) ReportCheckpoints(ctx context.Context, req *controlv1.ReportCheckpointsRequest) (*controlv1.ReportCheckpointsResponse, error) {
	if err := c.session(req.GetSession()); err != nil {
		return nil, err
	}
	if n := len(req.GetCheckpoints()); n > maxCheckpoints {
		return nil, fail(codes.ResourceExhausted, reasonLimitExceeded, "%d checkpoints are reported, at most %d are taken at once", n, maxCheckpoints)
	}
	leave, err := c.reports.enter(ctx, proto.Size(req))
	if err != nil {
		return nil, err
	}
	defer leave()
	resp := &controlv1.ReportCheckpointsResponse{}
	cmd, size := c.checkpoints(req), 0
	flush := func() error {
		results, err := c.storeCheckpoints(ctx, cmd)
		if err != nil {
			return err
		}
		resp.Results = append(resp.Results, results...)
		cmd, size = c.checkpoints(req), 0
		return nil
	}
	for _, cp := range req.GetCheckpoints() {
		if len(cp.GetPosition()) > maxPositionBytes || len(cp.GetPartition()) > maxPartitionBytes {
			return nil, invalid("a checkpoint of stage %s of pipeline %s has a position of %d bytes or a partition of %d, at most %d and %d are kept",
				cp.GetSourceStage(), cp.GetPipeline(), len(cp.GetPosition()), len(cp.GetPartition()), maxPositionBytes, maxPartitionBytes)
		}
		bytes := len(cp.GetPosition()) + len(cp.GetPartition()) + len(cp.GetPipeline()) + len(cp.GetSourceStage()) + checkpointOverhead
		if size+bytes > checkpointBatchSize {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		size += bytes
		cmd.Checkpoints = append(cmd.Checkpoints, &statepb.Checkpoint{
			Pipeline: cp.GetPipeline(), SourceStage: cp.GetSourceStage(), Partition: cp.GetPartition(), Generation: cp.GetGeneration(),
			Incarnation: cp.GetEpoch().GetIncarnation(), Index: cp.GetEpoch().GetIndex(),
			Sequence: cp.GetSequence(), Position: cp.GetPosition(), Ended: cp.GetEnded(),
		})
	}
	if len(cmd.GetCheckpoints()) > 0 {
		if err := flush(); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

func (c *coordinator) checkpoints(req *controlv1.ReportCheckpointsRequest) *statepb.StoreCheckpoints {
	return &statepb.StoreCheckpoints{SidecarId: req.GetSession().GetSidecarId(), SessionEpoch: req.GetSession().GetEpoch()}
}

var checkpointResults = map[state.CheckpointResult]controlv1.CheckpointResult{
	state.Accepted: controlv1.CheckpointResult_CHECKPOINT_RESULT_ACCEPTED,
	state.Fenced:   controlv1.CheckpointResult_CHECKPOINT_RESULT_FENCED,
	state.Stale:    controlv1.CheckpointResult_CHECKPOINT_RESULT_STALE,
}

func (c *coordinator) storeCheckpoints(ctx context.Context, cmd *statepb.StoreCheckpoints) ([]controlv1.CheckpointResult, error) {
	r, err := c.Controller.Propose(ctx, &statepb.Command{Kind: &statepb.Command_StoreCheckpoints{StoreCheckpoints: cmd}})
	if err != nil {
		return nil, toWire(err)
	}
	results, ok := r.Value.([]state.CheckpointResult)
	if !ok || len(results) != len(cmd.GetCheckpoints()) {
		return nil, toWire(errBadCheckpoints)
	}
	out := make([]controlv1.CheckpointResult, len(results))
	for i, result := range results {
		out[i] = checkpointResults[result]
	}
	return out, nil
}
