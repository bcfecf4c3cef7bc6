package api

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/conveyor-etl/conveyor/internal/auth"
	"github.com/conveyor-etl/conveyor/internal/certs"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// anyName is the name in a certificate that is shared by all of a role.
const anyName = "any"

// IdentityUnary refuses a message that speaks for another router or sidecar than the caller's certificate does.
func IdentityUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := speaksForItself(auth.Caller(ctx), req); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// IdentityStream is IdentityUnary for each message of a stream.
func IdentityStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	caller := auth.Caller(stream.Context())
	if caller == auth.Local {
		return handler(srv, stream)
	}
	return handler(srv, &identified{stream, caller})
}

type identified struct {
	grpc.ServerStream
	caller certs.Identity
}

func (i *identified) RecvMsg(m any) error {
	if err := i.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return speaksForItself(i.caller, m)
}

func speaksForItself(caller certs.Identity, m any) error {
	if caller == auth.Local || caller.Name == anyName {
		return nil
	}
	switch caller.Role {
	case certs.RoleRouter:
		if id := routerOf(m); id != "" && number(id) != caller.Name {
			return fail(codes.PermissionDenied, reasonDenied, "%s speaks for router %.100q", caller, id)
		}
	case certs.RoleSidecar:
		if id := sidecarOf(m); id != "" && id != caller.Name {
			return fail(codes.PermissionDenied, reasonDenied, "%s speaks for sidecar %.140q", caller, id)
		}
	}
	return nil
}

// number is the part of a server id that a certificate carries: RAFT_NODE_ID.
func number(serverID string) string {
	n, _, _ := strings.Cut(serverID, "-")
	return n
}

// routerOf is the router that a message comes from by its own words, or "".
func routerOf(m any) string {
	switch m := m.(type) {
	case interface{ GetTarget() *controlv1.RaftTarget }:
		return string(m.GetTarget().GetSenderId())
	case *controlv1.InstallSnapshotRequest:
		return string(m.GetHead().GetTarget().GetSenderId())
	case *controlv1.AnnounceRequest:
		return m.GetServerId()
	}
	return ""
}

// sidecarOf is the sidecar that a message comes from by its own words, or "".
func sidecarOf(m any) string {
	switch m := m.(type) {
	case interface{ GetSession() *controlv1.Session }:
		return m.GetSession().GetSidecarId()
	case *controlv1.RegisterRequest:
		return m.GetSidecarId()
	}
	return ""
}
