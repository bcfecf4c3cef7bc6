package main

import (
	"context"
	"fmt"
	"io"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
)

const (
	method = "/floor.Chain/Push"
	// One HTTP/2 window for the stream and the connection, never resized: the window of records binds before it does.
	streamWindow = 1 << 20
	ioBuffer     = 128 << 10
	maxMessage   = 64 << 20
)

var (
	pool   = &dirtyPool{}
	stream = grpc.StreamDesc{StreamName: "Push", ClientStreams: true, ServerStreams: true}
)

// open dials the process at addr and opens the one stream to it. Closing the connection is the caller's.
func open(ctx context.Context, addr string) (grpc.ClientStream, *grpc.ClientConn, error) {
	target := "passthrough:" + addr
	if addr[0] == '/' {
		target = "unix:" + addr
	}
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(streamWindow), grpc.WithStaticConnWindowSize(streamWindow),
		grpc.WithReadBufferSize(ioBuffer), grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithDisableRetry(), experimental.WithBufferPool(pool),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{pool}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.WaitForReady(true)))
	if err != nil {
		return nil, nil, err
	}
	s, err := conn.NewStream(ctx, &stream, method)
	if err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("open a stream to %s: %w", addr, err)
	}
	return s, conn, nil
}

// handler plays a part of the chain on the stream from upstream until that ends.
type handler func(c config, up grpc.ServerStream) (usage, error)

// serve listens, writes its address and a line feed to announce, and returns when the first stream has ended.
func serve(c config, announce io.Writer, h handler) (usage, error) {
	var listen net.ListenConfig
	listener, err := listen.Listen(context.Background(), c.network, c.listen)
	if err != nil {
		return usage{}, err
	}
	type outcome struct {
		used usage
		err  error
	}
	done := make(chan outcome, 1)
	desc := stream
	desc.Handler = func(_ any, up grpc.ServerStream) error {
		used, err := h(c, up)
		done <- outcome{used, err}
		return err
	}
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(codec{pool}), grpc.MaxRecvMsgSize(maxMessage),
		grpc.StaticStreamWindowSize(streamWindow), grpc.StaticConnWindowSize(streamWindow),
		grpc.ReadBufferSize(ioBuffer), grpc.WriteBufferSize(ioBuffer), experimental.BufferPool(pool))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "floor.Chain", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{desc},
	}, struct{}{})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Fprintln(announce, listener.Addr())
	select {
	case out := <-done:
		server.GracefulStop()
		return out.used, out.err
	case err := <-served:
		return usage{}, err
	}
}
