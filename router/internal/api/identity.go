package api

import (
	"context"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/conveyor-etl/conveyor/internal/auth"
	"github.com/conveyor-etl/conveyor/internal/certs"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// IdentityUnary refuses a message that speaks for another router or sidecar than the caller's certificate does.
func IdentityUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := speaksDirectly(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	if err := speaksForItself(auth.Caller(ctx), req); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// IdentityStream is IdentityUnary for each message of a stream. The first that is refused ends it.
func IdentityStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := speaksDirectly(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	caller := auth.Caller(stream.Context())
	if caller == auth.Local {
		return handler(srv, stream)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	i := &identified{ServerStream: stream, ctx: ctx, cancel: cancel, caller: caller}
	err := handler(srv, i)
	if refused := i.refused(); refused != nil {
		return refused
	}
	return err
}

// identified is a stream of a caller. A handler that does not mind what receiving returns, because it waits for something else, is ended by the context.
type identified struct {
	grpc.ServerStream
	ctx    context.Context //nolint:containedctx // of the stream, as its interface wants
	cancel context.CancelFunc
	caller certs.Identity

	mu  sync.Mutex
	err error // guarded by mu
}

func (i *identified) Context() context.Context { return i.ctx }

func (i *identified) RecvMsg(m any) error {
	if err := i.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	err := speaksForItself(i.caller, m)
	if err != nil {
		i.mu.Lock()
		i.err = err
		i.mu.Unlock()
		i.cancel()
	}
	return err
}

func (i *identified) refused() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.err
}

// speaksDirectly refuses a call of raft that somebody passes on: otherwise a router could vote as any other, by saying that it acts for it.
func speaksDirectly(ctx context.Context, method string) error {
	via, passed := auth.ForwardedBy(ctx)
	if passed && strings.HasPrefix(method, "/"+controlv1.RaftService_ServiceDesc.ServiceName+"/") {
		return fail(codes.PermissionDenied, reasonDenied, "%s passes on what %s says, and routers speak to each other directly", via, auth.Name(ctx))
	}
	return nil
}

func speaksForItself(caller certs.Identity, m any) error {
	if caller == auth.Local {
		return nil
	}
	switch caller.Role {
	case certs.RoleRouter:
		// One that does not say who it is would be taken for a router of old, which raft trusts more.
		if id, speaks := routerOf(m); speaks && !caller.MayBe(Number(id)) {
			return fail(codes.PermissionDenied, reasonDenied, "the certificate is of %s and may not speak for router %.100q", caller, id)
		}
	case certs.RoleSidecar:
		if id, speaks := sidecarOf(m); speaks && !caller.MayBe(id) {
			return fail(codes.PermissionDenied, reasonDenied, "the certificate is of %s and may not speak for sidecar %.140q", caller, id)
		}
	}
	return nil
}

// Number is the part of a server id that a certificate carries: RAFT_NODE_ID.
func Number(serverID string) string {
	n, _, _ := strings.Cut(serverID, "-")
	return n
}

// routerOf is the router that a message comes from by its own words; false for one that has no such words.
func routerOf(m any) (id string, speaks bool) {
	switch m := m.(type) {
	case interface{ GetTarget() *controlv1.RaftTarget }:
		return string(m.GetTarget().GetSenderId()), true
	case *controlv1.InstallSnapshotRequest:
		return string(m.GetHead().GetTarget().GetSenderId()), m.GetHead() != nil
	case *controlv1.AnnounceRequest:
		return m.GetServerId(), true
	}
	return "", false
}

// sidecarOf is the sidecar that a message comes from by its own words; false for one that has no such words.
func sidecarOf(m any) (id string, speaks bool) {
	switch m := m.(type) {
	case interface{ GetSession() *controlv1.Session }:
		return m.GetSession().GetSidecarId(), m.GetSession() != nil
	case *controlv1.RegisterRequest:
		return m.GetSidecarId(), true
	}
	return "", false
}
