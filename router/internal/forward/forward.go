// Package forward lets every router of a cluster answer for the one that leads it.
package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// markKey marks a call that a router has passed on. It goes no further: routers that disagree about the leader must not send it around.
	markKey = "conveyor-forwarded"
	// LeaderKey is the trailer of a forwarded answer that says where the leader is, for callers that want to ask it themselves.
	LeaderKey = "conveyor-leader"
	// lookEvery is how often a call that waits for a leader looks for one.
	lookEvery = 20 * time.Millisecond
	// followEvery is how soon calls under way to a router end after another one leads.
	followEvery = 100 * time.Millisecond
)

// Cluster is what a forwarder knows of the cluster.
type Cluster interface {
	// Leads reports whether this router leads the cluster and is ready to answer.
	Leads() bool
	// Leader is the address of the router that leads, and its id; both are empty when there is none, or it is not known.
	Leader() (id, address string)
}

// Config is what a forwarder stands on. All fields but Outgoing and Gone are required.
type Config struct {
	Cluster Cluster
	// Own reports whether each router answers a method itself. A request that asks for a stale answer is answered here anyway.
	Own func(fullMethod string) bool
	// Dial connects to another router.
	Dial func(id, address string) (*grpc.ClientConn, error)
	// Outgoing adds to an outgoing context who the caller is. Nil adds nothing.
	Outgoing func(context.Context) context.Context
	// Gone returns the error of every call, other than those of Own, once this router is no part of the cluster any more; nil before. Nil for one that never is.
	Gone func() error
	// Patience is how long a call waits for a leader: elections are not worth an error.
	Patience time.Duration
	// NoLeader makes the error of a call that found no leader in that time.
	NoLeader func() error
	// NotLeader makes the error of a call that another router sent here although this one does not lead.
	NotLeader func() error
	// NotReached makes the error of a call that could not be sent to the leader. The cause is nil where the leader takes no connections now.
	NotReached func(leader, address string, cause error) error
	// Lost makes the error of a call whose outcome is unknown because the leader did not answer.
	Lost   func(leader string, cause error) error
	Logger *slog.Logger
}

// Forwarder passes calls on to the leader. Its interceptors may be used concurrently.
type Forwarder struct {
	cfg   Config
	links *links
	done  chan struct{} // closed by Close
	wg    sync.WaitGroup
}

// New returns a forwarder. Close it after the server that uses it.
func New(cfg Config) *Forwarder {
	f := &Forwarder{cfg: cfg, links: newLinks(cfg.Dial), done: make(chan struct{})}
	f.wg.Go(f.follow)
	return f
}

// Close ends the connections to other routers. It is called once.
func (f *Forwarder) Close() error {
	close(f.done)
	f.wg.Wait()
	return f.links.close()
}

// follow notices that another router leads also while no new calls come.
func (f *Forwarder) follow() {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-f.done:
			return
		case <-tick.C:
		}
		if f.gone() != nil || f.cfg.Cluster.Leads() {
			f.links.follow(target{})
		} else if id, address := f.cfg.Cluster.Leader(); address != "" {
			f.links.follow(target{id, address})
		}
	}
}

func (f *Forwarder) gone() error {
	if f.cfg.Gone == nil {
		return nil
	}
	return f.cfg.Gone()
}

// staler is a request that can ask for an answer of the router that it reaches, however old.
type staler interface{ GetStale() bool }

// Unary answers a call here when this router leads, and passes it on to the leader otherwise.
func (f *Forwarder) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if f.cfg.Own(info.FullMethod) {
		return handler(ctx, req)
	}
	if err := f.gone(); err != nil {
		return nil, err
	}
	if s, ok := req.(staler); ok && s.GetStale() {
		return handler(ctx, req)
	}
	deadline := time.Now().Add(f.cfg.Patience)
	var refused error // by this router, after it had led
	for {
		here, to, err := f.choose(ctx, deadline)
		if err != nil {
			return nil, cmp.Or(refused, err)
		}
		if here {
			resp, err := handler(ctx, req)
			if isNotLeader(err) && !isForwarded(ctx) && time.Now().Before(deadline) && pause(ctx) {
				refused = err // this router led when the call began, and lost that before anything was done
				continue
			}
			return resp, err
		}
		resp, err := f.invoke(ctx, info.FullMethod, to, req)
		if err != nil && notDone(err) && !lasts(err) && time.Now().Before(deadline) && pause(ctx) {
			continue // somebody else will lead
		}
		return resp, f.failed(ctx, to, err)
	}
}

// Stream is Unary for calls with streams.
func (f *Forwarder) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if f.cfg.Own(info.FullMethod) {
		return handler(srv, stream)
	}
	deadline := time.Now().Add(f.cfg.Patience)
	for {
		here, to, err := f.choose(stream.Context(), deadline)
		if err != nil {
			return err
		}
		if here {
			return handler(srv, stream)
		}
		err = f.proxy(stream, info, to)
		if errors.Is(err, errNotReached) && !lasts(err) && time.Now().Before(deadline) && pause(stream.Context()) {
			continue
		}
		return f.failed(stream.Context(), to, err)
	}
}

// target is the router that leads.
type target struct{ id, address string }

// notDone reports whether a call was certainly not carried out: the leader was not reached, or leads no more.
func notDone(err error) bool { return errors.Is(err, errNotReached) || isNotLeader(err) }

// lasts reports whether a call was not sent for a cause that does not go away by itself: another router can answer at once.
func lasts(err error) bool {
	return errors.As(err, new(*cannotReachError))
}

// choose waits until somebody leads: this router, or another at an address.
func (f *Forwarder) choose(ctx context.Context, deadline time.Time) (here bool, to target, err error) {
	for {
		if err := f.gone(); err != nil {
			return false, target{}, err
		}
		if f.cfg.Cluster.Leads() {
			return true, target{}, nil
		}
		if isForwarded(ctx) {
			return false, target{}, f.cfg.NotLeader()
		}
		if id, address := f.cfg.Cluster.Leader(); address != "" {
			return false, target{id, address}, nil
		}
		if time.Now().After(deadline) {
			return false, target{}, f.cfg.NoLeader()
		}
		if !pause(ctx) {
			return false, target{}, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// pause waits before the next look; false means that ctx ended.
func pause(ctx context.Context) bool {
	t := time.NewTimer(lookEvery)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func isForwarded(ctx context.Context) bool {
	md, _ := metadata.FromIncomingContext(ctx)
	return len(md.Get(markKey)) > 0
}

func (f *Forwarder) outgoing(ctx context.Context) context.Context {
	ctx = metadata.AppendToOutgoingContext(ctx, markKey, "1")
	if f.cfg.Outgoing != nil {
		ctx = f.cfg.Outgoing(ctx)
	}
	return ctx
}

func (f *Forwarder) invoke(ctx context.Context, method string, to target, req any) (proto.Message, error) {
	of, err := typesOf(method)
	if err != nil {
		return nil, err
	}
	link, err := f.reach(ctx, to)
	if err != nil {
		return nil, err
	}
	defer link.give()
	out, cancel := link.bind(f.outgoing(ctx))
	defer cancel()
	resp := of.resp.New().Interface()
	if err := link.conn.Invoke(out, method, req, resp); err != nil {
		return nil, err
	}
	// A caller without use for it does not mind, and neither does one that is gone.
	_ = grpc.SetTrailer(ctx, metadata.Pairs(LeaderKey, to.address))
	return resp, nil
}

// reach returns a link over which a call can be made now. An error that is errNotReached says that nothing was sent.
func (f *Forwarder) reach(ctx context.Context, to target) (*link, error) {
	link, err := f.links.take(to)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Patience)
	defer cancel()
	if err := link.ready(ctx); err != nil {
		link.give()
		// What comes next dials anew, and does not wait for the end of a pause that this connection makes.
		f.links.retire(to)
		return nil, err
	}
	return link, nil
}

// failed is what a caller is told of a call that the leader did not answer well.
func (f *Forwarder) failed(ctx context.Context, to target, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case errors.Is(err, errNotReached):
		var cause error
		if refused := (*cannotReachError)(nil); errors.As(err, &refused) {
			cause = refused.cause
		}
		return f.cfg.NotReached(to.id, to.address, cause)
	case hasReason(err) || (status.Code(err) != codes.Unavailable && status.Code(err) != codes.Canceled):
		return err
	}
	// What comes next dials anew, and does not wait for the end of a pause that this connection makes.
	f.links.retire(to)
	f.cfg.Logger.Debug("leader did not answer a forwarded call", "leader", to.id, "err", err)
	return f.cfg.Lost(to.id, errors.New(status.Convert(err).Message()))
}

// hasReason reports whether a router made the error, and not the connection to it.
func hasReason(err error) bool { return len(status.Convert(err).Details()) > 0 }

func errUnknown(method string) error {
	return status.Error(codes.Unimplemented, fmt.Sprintf("method %s is not known", method))
}
