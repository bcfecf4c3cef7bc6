package api

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/internal/auth"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// OpenClientSession implements controlv1.AdminServiceServer.
func (a *admin) OpenClientSession(ctx context.Context, _ *controlv1.OpenClientSessionRequest) (*controlv1.OpenClientSessionResponse, error) {
	r, err := a.Controller.Propose(ctx, &statepb.Command{Kind: &statepb.Command_OpenClientSession{
		OpenClientSession: &statepb.OpenClientSession{Identity: auth.Name(ctx)},
	}})
	if err != nil {
		return nil, toWire(err)
	}
	return &controlv1.OpenClientSessionResponse{ClientSession: r.Index}, nil
}

// EndClientSession implements controlv1.AdminServiceServer.
func (a *admin) EndClientSession(ctx context.Context, req *controlv1.EndClientSessionRequest) (*controlv1.EndClientSessionResponse, error) {
	if err := a.Store.Read(ctx); err != nil {
		return nil, toWire(err)
	}
	if identity, ok := a.Machine.ClientSessionOf(req.GetClientSession()); !ok || identity != auth.Name(ctx) {
		return &controlv1.EndClientSessionResponse{}, nil
	}
	_, err := a.Controller.Propose(ctx, &statepb.Command{Kind: &statepb.Command_EndClientSession{
		EndClientSession: &statepb.EndClientSession{Session: req.GetClientSession()},
	}})
	if err != nil {
		return nil, toWire(err)
	}
	return &controlv1.EndClientSessionResponse{}, nil
}

// made looks whether a change is a repeat of one that was made. It returns nil for one that was not, or that comes without a session.
func (a *admin) made(ctx context.Context, c *controlv1.Command) (*state.Made, error) {
	if c.GetClientSession() == 0 {
		return nil, nil
	}
	if c.GetSequence() == 0 || c.GetLowestUnanswered() > c.GetSequence() {
		return nil, invalid("change %d of client session %d, whose lowest unanswered one is %d, cannot be", c.GetSequence(), c.GetClientSession(), c.GetLowestUnanswered())
	}
	if err := a.Store.Read(ctx); err != nil {
		return nil, toWire(err)
	}
	if identity, ok := a.Machine.ClientSessionOf(c.GetClientSession()); ok && identity != auth.Name(ctx) {
		return nil, fail(codes.PermissionDenied, reasonDenied, "client session %d belongs to another caller", c.GetClientSession())
	}
	made, err := a.Machine.Made(c.GetClientSession(), c.GetSequence())
	return made, toWire(err)
}

// client is the part of a command that says who sends it; reply is kept for a repeat, and may be nil.
func client(c *controlv1.Command, reply proto.Message) *statepb.Client {
	if c.GetClientSession() == 0 {
		return nil
	}
	out := &statepb.Client{Session: c.GetClientSession(), Sequence: c.GetSequence(), LowestUnanswered: c.GetLowestUnanswered()}
	if reply != nil {
		out.Reply, _ = proto.Marshal(reply) // a repeat without a reply is answered all the same
	}
	return out
}
