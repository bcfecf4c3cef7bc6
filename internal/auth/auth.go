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

type callerContextKey struct{}

// Caller is who calls, as the interceptors of a Table found out; Local without them.
func Caller(ctx context.Context) certs.Identity {
	if id, ok := ctx.Value(callerContextKey{}).(certs.Identity); ok {
		return id
	}
	return Local
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
	caller, err := identify(ctx)
	if err != nil {
		return nil, err
	}
	if err := t.check(caller, method); err != nil {
		return nil, err
	}
	return context.WithValue(ctx, callerContextKey{}, caller), nil
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
func identify(ctx context.Context) (certs.Identity, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return certs.Identity{}, refuse(codes.Unauthenticated, "the caller is not known")
	}
	caller := Local
	if tls, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		if len(tls.State.PeerCertificates) == 0 {
			return certs.Identity{}, refuse(codes.Unauthenticated, "the caller shows no certificate")
		}
		var err error
		if caller, err = certs.IdentityOf(tls.State.PeerCertificates[0]); err != nil {
			return certs.Identity{}, refuse(codes.Unauthenticated, "%v", err)
		}
	} else if !isLocal(p.Addr) {
		return certs.Identity{}, refuse(codes.Unauthenticated, "the call comes from %v without a certificate", p.Addr)
	}
	md, _ := metadata.FromIncomingContext(ctx)
	passed := md.Get(callerKey)
	switch {
	case len(passed) == 0:
		return caller, nil
	case len(passed) > 1:
		return certs.Identity{}, refuse(codes.Unauthenticated, "the call names %d callers", len(passed))
	case caller == Local && passed[0] == Local.Name:
		return Local, nil
	case caller.Role != certs.RoleRouter:
		return certs.Identity{}, refuse(codes.PermissionDenied, "%s may not call for somebody else", name(caller))
	}
	id, err := certs.ParseIdentity(passed[0])
	if err != nil {
		return certs.Identity{}, refuse(codes.Unauthenticated, "the call is passed on for %.100q: %v", passed[0], err)
	}
	return id, nil
}

// isLocal reports whether an address is of this machine alone. Other kinds of connection than TCP do not leave it.
func isLocal(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
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
