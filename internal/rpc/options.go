// Package rpc holds the gRPC settings that all of Conveyor's parts share, servers and clients alike,
// and the rule that parts without certificates stay on loopback.
package rpc

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
)

// The shared settings. Flow control is static and small, so that Conveyor's own credits bind before
// HTTP/2's windows do, and what a peer can make us hold is known.
const (
	// DefaultMaxMessageBytes holds a record of the largest size that may be configured, 4 MiB, and
	// the message around it.
	DefaultMaxMessageBytes = 4<<20 + 64<<10
	// MaxConcurrentStreams bounds the calls in progress on one connection.
	MaxConcurrentStreams = 256
	// MaxHeaderBytes bounds the metadata of one call.
	MaxHeaderBytes = 16 << 10

	windowBytes       = 1 << 20
	socketBufferBytes = 128 << 10

	// A dead peer is noticed within keepaliveTime + keepaliveTimeout.
	keepaliveTime     = 10 * time.Second
	keepaliveTimeout  = 5 * time.Second
	minKeepaliveTime  = 5 * time.Second // below the clients' time: their pings are never too many
	connectionTimeout = 10 * time.Second
	maxReconnectDelay = 5 * time.Second
)

// ServerConfig is what differs between Conveyor's servers. The zero value is a plaintext server.
type ServerConfig struct {
	// TLS provides the server's credentials, see package certs; nil means plaintext, which is for
	// loopback only (see [Listen]).
	TLS credentials.TransportCredentials
	// MaxMessageBytes bounds a received message; zero means [DefaultMaxMessageBytes].
	MaxMessageBytes int
	// BufferPool holds received messages; nil means gRPC's default pool.
	BufferPool mem.BufferPool
	// MaxConnections bounds the connections of a [Server]; zero means [DefaultMaxConnections]. One address gets half of them, and a quarter as many again may be in
	// their handshake. What is over that is closed at once.
	MaxConnections int
	// Spare, with TLS, reports whose connections are not counted once it is known who they are; nil counts all.
	Spare func(credentials.AuthInfo) bool
	// Logger receives panics of handlers, and that connections are refused; nil discards them.
	Logger *slog.Logger
	// Unary and Stream run inside the recovery of panics, in their order.
	Unary  []grpc.UnaryServerInterceptor
	Stream []grpc.StreamServerInterceptor
}

func (cfg *ServerConfig) logger() *slog.Logger {
	if cfg.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return cfg.Logger
}

// ServerOptions returns the options for grpc.NewServer. [NewServer] uses them.
func ServerOptions(cfg ServerConfig) []grpc.ServerOption {
	log := cfg.logger()
	opts := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(orDefault(cfg.MaxMessageBytes)),
		grpc.MaxConcurrentStreams(MaxConcurrentStreams),
		grpc.MaxHeaderListSize(MaxHeaderBytes),
		grpc.ConnectionTimeout(connectionTimeout),
		grpc.WaitForHandlers(true), // what handlers use may be closed after the server
		grpc.ReadBufferSize(socketBufferBytes),
		grpc.WriteBufferSize(socketBufferBytes),
		grpc.StaticStreamWindowSize(windowBytes),
		grpc.StaticConnWindowSize(windowBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minKeepaliveTime, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(append([]grpc.UnaryServerInterceptor{recoverUnary(log)}, cfg.Unary...)...),
		grpc.ChainStreamInterceptor(append([]grpc.StreamServerInterceptor{recoverStream(log)}, cfg.Stream...)...),
	}
	if cfg.TLS != nil {
		opts = append(opts, grpc.Creds(cfg.TLS))
	}
	if cfg.BufferPool != nil {
		opts = append(opts, experimental.BufferPool(cfg.BufferPool))
	}
	return opts
}

// DialConfig is what differs between Conveyor's clients. The zero value is a plaintext client that
// reaches loopback only.
type DialConfig struct {
	// TLS provides the client's credentials, see package certs; nil means plaintext.
	TLS credentials.TransportCredentials
	// Plaintext decides, without TLS, which resolved addresses may be connected to. It runs before
	// any byte is sent. Nil means [LoopbackOnly]. Unix sockets are always allowed.
	Plaintext func(netip.Addr) error
	// MaxMessageBytes bounds a received message; zero means [DefaultMaxMessageBytes].
	MaxMessageBytes int
	// BufferPool holds received messages; nil means gRPC's default pool.
	BufferPool mem.BufferPool
}

// DialOptions returns the options for grpc.NewClient. Connections are never made through a proxy of
// the environment, and gRPC never retries by itself: repeating is up to those who know whether it is
// safe.
func DialOptions(cfg DialConfig) []grpc.DialOption {
	reconnect := backoff.DefaultConfig
	reconnect.BaseDelay = 100 * time.Millisecond
	reconnect.MaxDelay = maxReconnectDelay
	opts := []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(orDefault(cfg.MaxMessageBytes))),
		grpc.WithMaxHeaderListSize(MaxHeaderBytes),
		grpc.WithReadBufferSize(socketBufferBytes),
		grpc.WithWriteBufferSize(socketBufferBytes),
		grpc.WithStaticStreamWindowSize(windowBytes),
		grpc.WithStaticConnWindowSize(windowBytes),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: connectionTimeout}),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	}
	if cfg.TLS != nil {
		opts = append(opts, grpc.WithTransportCredentials(cfg.TLS))
	} else {
		check := cfg.Plaintext
		if check == nil {
			check = LoopbackOnly
		}
		opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(guardedDialer(check)))
	}
	if cfg.BufferPool != nil {
		opts = append(opts, experimental.WithBufferPool(cfg.BufferPool))
	}
	return opts
}

// Dial returns a client connection with the options of cfg, and those of extra after them. It checks
// the target but does not connect yet. The caller closes it.
func Dial(target string, cfg DialConfig, extra ...grpc.DialOption) (*grpc.ClientConn, error) {
	if cfg.Plaintext == nil {
		if err := CheckDial(target, cfg.TLS != nil); err != nil {
			return nil, err
		}
	}
	conn, err := grpc.NewClient(target, append(DialOptions(cfg), extra...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", target, err)
	}
	return conn, nil
}

func orDefault(maxMessageBytes int) int {
	if maxMessageBytes <= 0 {
		return DefaultMaxMessageBytes
	}
	return maxMessageBytes
}
