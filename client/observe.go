package client

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// leaderKey is the trailer by which a router that passed a call on says where the leader is.
const leaderKey = "conveyor-leader"

// A router that does not know whether it carried a call out says so in the metadata of its reason.
const (
	outcomeKey     = "outcome"
	outcomeUnknown = "unknown"
)

type (
	lostKey struct{}
	// sentKey is of a bool that is set when a call may have reached a router.
	sentKey struct{}
)

// observed returns a context under which lost is set when a router may have carried a call out without an answer.
func observed(ctx context.Context, lost *bool) context.Context {
	return context.WithValue(ctx, lostKey{}, lost)
}

// observe learns from a call whether it was sent, where the leader is, and whether its answer was lost. A peer is known of a call that was given to a connection; what
// the connections of other calls do says nothing of this one.
func (c *Client) observe(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var at peer.Peer
	var trailer metadata.MD
	err := invoke(ctx, method, req, reply, conn, append(slices.Clip(opts), grpc.Peer(&at), grpc.Trailer(&trailer))...)
	if sent, ok := ctx.Value(sentKey{}).(*bool); ok {
		*sent = at.Addr != nil
	}
	if lost, ok := ctx.Value(lostKey{}).(*bool); ok && at.Addr != nil && unanswered(err) {
		*lost = true
	}
	if address := trailer.Get(leaderKey); err == nil && len(address) == 1 {
		c.follows(address[0])
	}
	return err
}

// unanswered reports whether a call that reached a router ended without its word on whether it was carried out.
func unanswered(err error) bool {
	var e *Error
	if !errors.As(fromWire(err), &e) {
		return err != nil
	}
	if e.Metadata[outcomeKey] == outcomeUnknown {
		return true
	}
	return e.Reason == "" && (e.Code == codes.Unavailable || e.Code == codes.Canceled || e.Code == codes.DeadlineExceeded)
}

// follows makes the leader the router that is asked next, if it is one of those that the client was given. Each leader is followed once: this client may not reach it.
func (c *Client) follows(leader string) {
	if was := c.leader.Swap(&leader); was != nil && *was == leader {
		return
	}
	if i := slices.IndexFunc(c.servers, func(s *server) bool { return s.target == leader }); i >= 0 {
		c.current.Store(int64(i))
	}
}
