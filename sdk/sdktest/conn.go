// Package sdktest plays the sidecar for tests: it opens the streams of a service, of any language, by address, and has a suite that every
// service should pass.
package sdktest

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/sdk"
)

// Patience is how long a test waits for an answer that must come.
const Patience = 30 * time.Second

// Conn is a connection to a service. It is closed at the end of the test.
type Conn struct {
	conn *grpc.ClientConn
}

// Dial connects to a service that listens at addr without TLS. The service may still be starting: streams wait for it.
func Dial(t testing.TB, addr string) *Conn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8<<20), grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		t.Fatalf("dial %s: %v", addr, err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close the connection to %s: %v", addr, err)
		}
	})
	return &Conn{conn}
}

// Serve runs a server with the options for the time of the test and connects to it.
func Serve(t testing.TB, options ...sdk.Option) *Conn {
	t.Helper()
	return Dial(t, Listen(t, options...))
}

// Listen runs a server with the options for the time of the test and returns its address.
func Listen(t testing.TB, options ...sdk.Option) string {
	t.Helper()
	server, err := sdk.NewServer(append([]sdk.Option{sdk.WithGrace(time.Second)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, lis) }()
	t.Cleanup(func() {
		stop()
		timer := time.NewTimer(Patience)
		defer timer.Stop()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-timer.C:
			t.Error("the server did not stop")
		}
	})
	return lis.Addr().String()
}

// Open is what a stream is opened with. Fields left empty get values that fit a test.
type Open struct {
	Pipeline string
	Stage    string
	Type     string
	UID      string
	// Config is a JSON object.
	Config    string
	Epoch     uint64
	FromStart bool
	// Sources only.
	Partition string
	Position  sdk.Position
}

// Opening returns the message that a stream is opened with.
func (o Open) Opening() *conveyorv1.Opening {
	or := func(a, b string) string {
		if a != "" {
			return a
		}
		return b
	}
	return &conveyorv1.Opening{
		Pipeline: or(o.Pipeline, "default/test"), Stage: or(o.Stage, "stage"), Generation: 1, Type: o.Type,
		Config: []byte(o.Config), Epoch: &conveyorv1.Epoch{Incarnation: 1, Index: max(o.Epoch, 1)},
		Uid: or(o.UID, "default/service"), FromStart: o.FromStart,
	}
}

func records(batch *conveyorv1.RecordBatch) []sdk.Record {
	var all []sdk.Record
	for _, p := range batch.GetRecords() {
		all = append(all, sdk.FromProto(p))
	}
	return all
}

func batchOf(records []sdk.Record) *conveyorv1.RecordBatch {
	batch := &conveyorv1.RecordBatch{}
	for i := range records {
		p := &conveyorv1.Record{}
		records[i].ToProto(p)
		batch.Records = append(batch.Records, p)
	}
	return batch
}

// Describe returns the abilities that the service tells of, asked for by one of its kinds.
func (c *Conn) Describe(t testing.TB, kind conveyorv1.ServiceKind) []*conveyorv1.Ability {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	var abilities []*conveyorv1.Ability
	var err error
	switch kind {
	case conveyorv1.ServiceKind_SERVICE_KIND_SOURCE:
		var r *conveyorv1.SourceServiceDescribeResponse
		r, err = conveyorv1.NewSourceServiceClient(c.conn).Describe(ctx, &conveyorv1.SourceServiceDescribeRequest{})
		abilities = r.GetAbilities()
	case conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM:
		var r *conveyorv1.TransformServiceDescribeResponse
		r, err = conveyorv1.NewTransformServiceClient(c.conn).Describe(ctx, &conveyorv1.TransformServiceDescribeRequest{})
		abilities = r.GetAbilities()
	default:
		var r *conveyorv1.SinkServiceDescribeResponse
		r, err = conveyorv1.NewSinkServiceClient(c.conn).Describe(ctx, &conveyorv1.SinkServiceDescribeRequest{})
		abilities = r.GetAbilities()
	}
	if err != nil {
		t.Fatalf("describe: %v", err)
	}
	return abilities
}

// Partitions lists the partitions of a source.
func (c *Conn) Partitions(t testing.TB, o Open) ([]string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	r, err := conveyorv1.NewSourceServiceClient(c.conn).ListPartitions(ctx, &conveyorv1.ListPartitionsRequest{Opening: o.Opening()})
	return r.GetPartitions(), err
}
