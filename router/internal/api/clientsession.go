package api

import (
	"context"
	"slices"
	"strings"

	spb "google.golang.org/genproto/googleapis/rpc/status"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

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

// decided looks whether a change is a repeat of one that was decided. It returns nil for one that was not, or that comes without a session; the error says that the
// call cannot go on.
func (a *admin) decided(ctx context.Context, c *controlv1.Command) (*state.Decided, error) {
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
	d, err := a.Machine.Decided(c.GetClientSession(), c.GetSequence())
	return d, toWire(err)
}

// propose applies a client's change. It returns how the change was decided before, when it is a repeat.
func (a *admin) propose(ctx context.Context, cmd *statepb.Command) (*state.Decided, error) {
	_, d, err := a.proposeAt(ctx, cmd)
	return d, err
}

// proposeAt is propose, and returns the index of the command too.
func (a *admin) proposeAt(ctx context.Context, cmd *statepb.Command) (uint64, *state.Decided, error) {
	r, err := a.Controller.Propose(ctx, cmd)
	if err != nil {
		return 0, nil, err
	}
	d, _ := r.Value.(*state.Decided)
	return r.Index, d, nil
}

// answer records that a change ends without one of the state: as reply says, or as the refusal does. A copy of it that comes late is answered alike then, and not made at
// another time. It returns how the change was decided before, when a copy came first; the error says that it is not known to be recorded, and must not be answered.
func (a *admin) answer(ctx context.Context, c *controlv1.Command, reply proto.Message, refusal error) (*state.Decided, error) {
	if c.GetClientSession() == 0 {
		return nil, nil
	}
	who := client(c, reply)
	if refusal != nil {
		who.Reply = encodeRefusal(refusal)
	}
	d, err := a.propose(ctx, &statepb.Command{Client: who, Kind: &statepb.Command_AnswerClient{AnswerClient: &statepb.AnswerClient{Refused: refusal != nil}}})
	return d, toWire(err)
}

// refuse is answer for a call that only fails. It returns the error of the call, or how the change was decided before.
func (a *admin) refuse(ctx context.Context, c *controlv1.Command, refusal error) (*state.Decided, error) {
	if !final(refusal) {
		return nil, refusal
	}
	d, err := a.answer(ctx, c, nil, refusal)
	if err != nil || d != nil {
		return d, err
	}
	return nil, refusal
}

// final reports whether a caller takes an error for the end of a change, and does not send it again.
func final(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.Unknown, codes.Internal:
		return false
	}
	return true
}

// verdict is the refusal with which a change was decided, or nil when it was made, or needed no change.
func verdict(d *state.Decided) error {
	switch {
	case d.Rejection != nil:
		return toWire(d.Rejection)
	case d.Refused:
		var st spb.Status
		if err := proto.Unmarshal(d.Reply, &st); err != nil || st.GetCode() == int32(codes.OK) {
			return fail(codes.FailedPrecondition, reasonConflict, "the change was refused")
		}
		return status.ErrorProto(&st)
	}
	return nil
}

// encodeRefusal makes a refusal small enough to be kept: without its details but the reason, and cut, when it must be.
func encodeRefusal(err error) []byte {
	st := status.Convert(err).Proto()
	if proto.Size(st) > state.MaxReplyBytes {
		st.Details = slices.DeleteFunc(st.GetDetails(), func(d *anypb.Any) bool { return !d.MessageIs(&errdetails.ErrorInfo{}) })
		st.Message = strings.ToValidUTF8(st.GetMessage()[:min(len(st.GetMessage()), state.MaxReplyBytes/2)], "")
	}
	b, _ := proto.Marshal(st) // what cannot be kept is refused all the same
	return b
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
