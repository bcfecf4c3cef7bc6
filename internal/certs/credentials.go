package certs

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
)

// clientCreds makes fresh TLS credentials for every handshake. A tls.Config has no hook for changing
// the roots that servers are checked against.
type clientCreds struct{ store *Store }

func (c *clientCreds) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.now().ClientHandshake(ctx, authority, conn)
}

func (c *clientCreds) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("client credentials used by a server")
}

func (c *clientCreds) Info() credentials.ProtocolInfo { return c.now().Info() }

func (c *clientCreds) Clone() credentials.TransportCredentials { return &clientCreds{store: c.store} }

// OverrideServerName is part of the interface; gRPC calls it no more.
func (c *clientCreds) OverrideServerName(string) error {
	return errors.New("use grpc.WithAuthority to change the name of the server")
}

func (c *clientCreds) now() credentials.TransportCredentials {
	return credentials.NewTLS(c.store.ClientConfig(""))
}
