package client

import (
	"context"
	"fmt"
	"iter"

	"google.golang.org/grpc"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// Register opens a session of a sidecar.
func (c *Client) Register(ctx context.Context, req *controlv1.RegisterRequest) (*controlv1.RegisterResponse, error) {
	resp, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.RegisterResponse, error) {
		return controlv1.NewSidecarCoordinatorClient(conn).Register(ctx, req)
	})
	return resp, wrap("register", err)
}

// Heartbeat keeps the session and reports. ErrSessionEnded: register again.
func (c *Client) Heartbeat(ctx context.Context, req *controlv1.HeartbeatRequest) (*controlv1.HeartbeatResponse, error) {
	resp, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.HeartbeatResponse, error) {
		return controlv1.NewSidecarCoordinatorClient(conn).Heartbeat(ctx, req)
	})
	return resp, wrap("heartbeat", err)
}

// ReportEndpoints replaces what the routers know of the services beside the sidecar.
func (c *Client) ReportEndpoints(ctx context.Context, session *controlv1.Session, endpoints []*controlv1.Endpoint) error {
	req := &controlv1.ReportEndpointsRequest{Session: session, Endpoints: endpoints}
	_, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.ReportEndpointsResponse, error) {
		return controlv1.NewSidecarCoordinatorClient(conn).ReportEndpoints(ctx, req)
	})
	return wrap("report endpoints", err)
}

// WatchAssignments yields the whole of what the sidecar should run, at once and at every change. It resumes by itself after a break, which yields the
// whole again, and ends when ctx ends, when the caller stops, or with an error that is the last thing it yields; ErrSessionEnded: register again.
func (c *Client) WatchAssignments(ctx context.Context, session *controlv1.Session) iter.Seq2[*controlv1.WatchAssignmentsResponse, error] {
	return func(yield func(*controlv1.WatchAssignmentsResponse, error) bool) {
		stopped := false
		err := follow(ctx, c, true, func(ctx context.Context, conn grpc.ClientConnInterface) (grpc.ServerStreamingClient[controlv1.WatchAssignmentsResponse], error) {
			return controlv1.NewSidecarCoordinatorClient(conn).WatchAssignments(ctx, &controlv1.WatchAssignmentsRequest{Session: session})
		}, func(m *controlv1.WatchAssignmentsResponse) bool {
			stopped = !yield(m, nil)
			return !stopped
		})
		if err != nil && !stopped {
			yield(nil, wrap("watch assignments", err))
		}
	}
}

// AcknowledgeAssignments says which revision is in effect and which assignments have ended.
func (c *Client) AcknowledgeAssignments(ctx context.Context, req *controlv1.AcknowledgeAssignmentsRequest) error {
	_, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.AcknowledgeAssignmentsResponse, error) {
		return controlv1.NewSidecarCoordinatorClient(conn).AcknowledgeAssignments(ctx, req)
	})
	return wrap("acknowledge assignments", err)
}

// ReadCheckpoints returns the checkpoints of a source stage. pipeline is namespace/name.
func (c *Client) ReadCheckpoints(ctx context.Context, session *controlv1.Session, pipeline, sourceStage string) (*controlv1.ReadCheckpointsResponse, error) {
	req := &controlv1.ReadCheckpointsRequest{Session: session, Pipeline: pipeline, SourceStage: sourceStage}
	resp, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.ReadCheckpointsResponse, error) {
		return controlv1.NewSidecarCoordinatorClient(conn).ReadCheckpoints(ctx, req)
	})
	return resp, wrap("read checkpoints of "+pipeline, err)
}

// ReportCheckpoints stores checkpoints and returns what became of each, in order. A repeat of a stored checkpoint is accepted again.
func (c *Client) ReportCheckpoints(ctx context.Context, session *controlv1.Session, checkpoints []*controlv1.Checkpoint) ([]controlv1.CheckpointResult, error) {
	req := &controlv1.ReportCheckpointsRequest{Session: session, Checkpoints: checkpoints}
	resp, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.ReportCheckpointsResponse, error) {
		return controlv1.NewSidecarCoordinatorClient(conn).ReportCheckpoints(ctx, req)
	})
	if err != nil {
		return nil, wrap("report checkpoints", err)
	}
	if got, want := len(resp.GetResults()), len(checkpoints); got != want {
		return nil, fmt.Errorf("report checkpoints: %d results for %d checkpoints", got, want)
	}
	return resp.GetResults(), nil
}

// StoreDeadLetters stores letters durably and returns the place of each, in order. A repeat of a stored letter is answered as its duplicate.
func (c *Client) StoreDeadLetters(ctx context.Context, session *controlv1.Session, letters []*controlv1.Letter) ([]*controlv1.StoredLetter, error) {
	req := &controlv1.StoreDeadLettersRequest{Session: session, Letters: letters}
	resp, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.StoreDeadLettersResponse, error) {
		return controlv1.NewSidecarCoordinatorClient(conn).StoreDeadLetters(ctx, req)
	})
	if err != nil {
		return nil, wrap("store dead letters", err)
	}
	if got, want := len(resp.GetResults()), len(letters); got != want {
		return nil, fmt.Errorf("store dead letters: %d results for %d letters", got, want)
	}
	return resp.GetResults(), nil
}

// Replays is the stream on which a sidecar is handed letters to replay. Send and Recv may be called from one goroutine each.
type Replays struct {
	stream grpc.BidiStreamingClient[controlv1.ReplaysRequest, controlv1.ReplaysResponse]
	end    func()
}

// OpenReplays opens the stream, with the session as its first message. It tries once: when the stream breaks, the caller opens another, and letters without
// an outcome are handed out again. The stream lives until ctx ends or it is closed.
func (c *Client) OpenReplays(ctx context.Context, session *controlv1.Session) (*Replays, error) {
	ctx, end := c.bind(ctx)
	s := c.servers[c.current.Load()%int64(len(c.servers))]
	stream, err := controlv1.NewSidecarCoordinatorClient(s.conn).Replays(ctx)
	if err == nil {
		err = stream.Send(&controlv1.ReplaysRequest{Session: session})
	}
	if err != nil {
		end()
		return nil, wrap("open replays", c.unreachable(s.lastDialError(), fromWire(err)))
	}
	return &Replays{stream: stream, end: end}, nil
}

// Recv blocks until there is a letter to replay, or the stream has ended.
func (r *Replays) Recv() (*controlv1.Letter, error) {
	m, err := r.stream.Recv()
	if err != nil {
		return nil, wrap("receive a replay", fromWire(err))
	}
	return m.GetLetter(), nil
}

// Send tells the outcome of a letter.
func (r *Replays) Send(outcome *controlv1.ReplayOutcome) error {
	return wrap("report a replay", fromWire(r.stream.Send(&controlv1.ReplaysRequest{Outcome: outcome})))
}

// Close ends the stream.
func (r *Replays) Close() { r.end() }

// Deregister ends the session after a drain.
func (c *Client) Deregister(ctx context.Context, session *controlv1.Session) error {
	_, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.DeregisterResponse, error) {
		return controlv1.NewSidecarCoordinatorClient(conn).Deregister(ctx, &controlv1.DeregisterRequest{Session: session})
	})
	return wrap("deregister", err)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
