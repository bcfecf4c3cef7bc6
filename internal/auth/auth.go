// Package auth knows who calls, and lets them do what their role may, and nothing else.
package auth

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/internal/certs"
)

const (
	// callerKey carries the identity of the caller from the router that was called to the one that leads.
	callerKey = "conveyor-caller"
	domain    = "conveyor.etl"
	reason    = "DENIED"
)

// Local is the caller on a connection without certificates, which never leaves the machine: somebody who may use it.
var Local = certs.Identity{Name: "local"}

// Table says by full method name which roles may call it. What is not in it nobody may.
type Table map[string][]certs.Role

// nobody is the caller of a context that no Table has seen: it has no role, and so may nothing.
var nobody = certs.Identity{Role: "unknown", Name: "nobody"}

// call is what a Table found out.
type call struct {
	caller certs.Identity
	via    certs.Identity // the router that passed the call on
	passed bool
}

type callContextKey struct{}

// Caller is who calls, as the interceptors of a Table found out. Without them it is an identity that no certificate speaks for.
func Caller(ctx context.Context) certs.Identity {
	if c, ok := ctx.Value(callContextKey{}).(call); ok {
		return c.caller
	}
	return nobody
}

// ForwardedBy is the router that passed the call on; false means that the caller itself is connected.
func ForwardedBy(ctx context.Context) (certs.Identity, bool) {
	c, _ := ctx.Value(callContextKey{}).(call)
	return c.via, c.passed
}

// Name is Caller in words: role/name, or local.
func Name(ctx context.Context) string { return name(Caller(ctx)) }

func name(id certs.Identity) string {
	if id == Local {
		return Local.Name
	}
	return id.String()
}

// Forward adds the caller to a call that is passed on to another router.
func Forward(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, callerKey, Name(ctx))
}

// Unary lets a call through for those who may make it.
func (t Table) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, err := t.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// Stream is Unary for calls with streams.
func (t Table) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, err := t.admit(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return handler(srv, &admitted{stream, ctx})
}

type admitted struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // of the stream, as its interface wants
}

func (a *admitted) Context() context.Context { return a.ctx }

func (t Table) admit(ctx context.Context, method string) (context.Context, error) {
	c, err := identify(ctx)
	if err != nil {
		return nil, err
	}
	if err := t.check(c.caller, method); err != nil {
		return nil, err
	}
	return context.WithValue(ctx, callContextKey{}, c), nil
}

func (t Table) check(caller certs.Identity, method string) error {
	allowed, known := t[method]
	switch {
	case !known:
		return refuse(codes.PermissionDenied, "nobody may call %s", method)
	case caller == Local || slices.Contains(allowed, caller.Role):
		return nil
	}
	var may []string
	for _, r := range allowed {
		may = append(may, string(r))
	}
	return refuse(codes.PermissionDenied, "%s may not call %s: that is for the role %s", caller, method, strings.Join(may, ", "))
}

// identify finds out who calls: who the certificate speaks for, or for whom a router passes the call on.
func identify(ctx context.Context) (call, error) {
	from, err := connected(ctx)
	if err != nil {
		return call{}, err
	}
	md, _ := metadata.FromIncomingContext(ctx)
	passed := md.Get(callerKey)
	switch {
	case len(passed) == 0:
		return call{caller: from}, nil
	case len(passed) > 1:
		return call{}, refuse(codes.Unauthenticated, "the call names %d callers", len(passed))
	case from == Local && passed[0] == Local.Name:
		return call{caller: Local, via: Local, passed: true}, nil
	case from.Role != certs.RoleRouter:
		return call{}, refuse(codes.PermissionDenied, "%s may not call for somebody else", name(from))
	}
	id, err := certs.ParseIdentity(passed[0])
	if err != nil {
		return call{}, refuse(codes.Unauthenticated, "the call is passed on for %.100q: %v", passed[0], err)
	}
	return call{caller: id, via: from, passed: true}, nil
}

// connected is who is at the other end of the connection.
func connected(ctx context.Context) (certs.Identity, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return certs.Identity{}, refuse(codes.Unauthenticated, "the caller is not known")
	}
	if tls, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		return certified(tls)
	}
	if p.AuthInfo != nil && p.AuthInfo.AuthType() != "insecure" {
		return certs.Identity{}, refuse(codes.Unauthenticated, "nothing is known here of connections that %s secures", p.AuthInfo.AuthType())
	}
	if !isLocal(p.Addr) {
		return certs.Identity{}, refuse(codes.Unauthenticated, "the call comes from %v without a certificate", p.Addr)
	}
	return Local, nil
}

// certified is whom the certificate of the other side speaks for.
func certified(tls credentials.TLSInfo) (certs.Identity, error) {
	// A server that asks for certificates without checking them has no chain to show.
	if len(tls.State.VerifiedChains) == 0 {
		return certs.Identity{}, refuse(codes.Unauthenticated, "the caller shows no certificate")
	}
	id, err := certs.IdentityOf(tls.State.VerifiedChains[0][0])
	if err != nil {
		return certs.Identity{}, refuse(codes.Unauthenticated, "%v", err)
	}
	return id, nil
}

// IsRouter reports whether the other side of a connection has shown the certificate of a router.
func IsRouter(info credentials.AuthInfo) bool {
	tls, ok := info.(credentials.TLSInfo)
	if !ok {
		return false
	}
	id, err := certified(tls)
	return err == nil && id.Role == certs.RoleRouter
}

// isLocal reports whether an address is known to be of this machine alone.
func isLocal(a net.Addr) bool {
	switch a := a.(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	}
	return false
}

// Server is what Check looks at; *grpc.Server is one.
type Server interface {
	GetServiceInfo() map[string]grpc.ServiceInfo
}

// Check names every method of a server that has no rule, and every rule without a method.
func (t Table) Check(srv Server) error {
	var faults []string
	known := map[string]bool{}
	for service, info := range srv.GetServiceInfo() {
		for _, m := range info.Methods {
			full := "/" + service + "/" + m.Name
			known[full] = true
			if _, ok := t[full]; !ok {
				faults = append(faults, full+" has no rule")
			}
		}
	}
	for full := range t {
		if !known[full] {
			faults = append(faults, full+" has a rule and is no method")
		}
	}
	if len(faults) == 0 {
		return nil
	}
	slices.Sort(faults)
	return fmt.Errorf("rules and methods do not agree: %s", strings.Join(faults, "; "))
}

func refuse(code codes.Code, format string, args ...any) error {
	st := status.Newf(code, format, args...)
	if full, err := st.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: domain}); err == nil {
		st = full
	}
	return st.Err()
}
