package raftstore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
)

// BenchmarkProposeAgainstBareRaft takes turns: so many commands at three of our servers over gRPC, as many at three of the bare library over its own TCP transport, with the
// same store and settings, all in this process and on one disk. It reports the median latency of both, and the median of the ratios of the pairs (bare / ours: above 1 we are
// faster).
//
// The bare library always speaks in the clear; ours does so in plain, and with certificates in both directions in mtls.
func BenchmarkProposeAgainstBareRaft(b *testing.B) {
	for _, kind := range []raftstore.LogKind{raftstore.LogBolt, raftstore.LogWAL} {
		for _, clients := range []int{1, 128} {
			for _, wire := range []struct {
				name string
				tls  *tls.Config
			}{{"plain", nil}, {"mtls", mutualTLS(b)}} {
				b.Run(fmt.Sprintf("%s/clients=%d/%s", kind, clients, wire.name), func(b *testing.B) {
					against(b, clients, startOurs(b, wire.tls), startBare(b))
				})
			}
		}
	}
}

func against(b *testing.B, clients int, ours, bare func([]byte)) {
	b.Helper()
	const pairs = 10
	commands := max(200, clients*10)
	var ratios, oursP50, bareP50 []float64
	measure(clients, commands/2, ours) // both are warm then
	measure(clients, commands/2, bare)
	b.ResetTimer()
	for range max(1, b.N/pairs) {
		for i := range pairs {
			var o, r time.Duration
			if i%2 == 0 {
				o, r = measure(clients, commands, ours), measure(clients, commands, bare)
			} else {
				r, o = measure(clients, commands, bare), measure(clients, commands, ours)
			}
			ratios = append(ratios, float64(r)/float64(o))
			oursP50, bareP50 = append(oursP50, float64(o.Microseconds())), append(bareP50, float64(r.Microseconds()))
		}
	}
	b.ReportMetric(median(oursP50), "ours-µs")
	b.ReportMetric(median(bareP50), "bare-µs")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(slices.Min(ratios), "ratio-min")
	b.ReportMetric(slices.Max(ratios), "ratio-max")
}

// mutualTLS is for both directions of servers on this machine.
func mutualTLS(b *testing.B) *tls.Config {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		b.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// measure returns the median latency of commands that clients make side by side.
func measure(clients, commands int, propose func([]byte)) time.Duration {
	took := make([]time.Duration, commands)
	cmd := make([]byte, 256)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := c; i < commands; i += clients {
				began := time.Now()
				propose(cmd)
				took[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took[commands/2]
}

// nothing is a state machine without state.
type nothing struct{}

func (nothing) Apply(uint64, []byte) any { return nil }
func (nothing) Snapshot() (func(io.Writer) error, error) {
	return func(io.Writer) error { return nil }, nil
}
func (nothing) Restore(io.Reader) error { return nil }

func startOurs(b *testing.B, wire *tls.Config) func([]byte) {
	b.Helper()
	var serve []grpc.ServerOption
	var dial func(raftstore.Peer) ([]grpc.DialOption, error) // in the clear
	if wire != nil {
		serve = append(serve, grpc.Creds(credentials.NewTLS(wire)))
		dial = func(raftstore.Peer) ([]grpc.DialOption, error) {
			return []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(wire))}, nil
		}
	}
	var peers []raftstore.Peer
	var listeners []net.Listener
	for n := range 3 {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		listeners = append(listeners, lis)
		peers = append(peers, raftstore.Peer{ServerName: fmt.Sprint(n + 1), Address: lis.Addr().String()})
	}
	var stores []*raftstore.Store
	for n, p := range peers {
		store, err := raftstore.Open(b.Context(), raftstore.Config{Dir: b.TempDir(), ServerName: p.ServerName, Address: p.Address, Peers: peers, DialOptions: dial, Log: kindOf(b)}, nothing{})
		if err != nil {
			b.Fatal(err)
		}
		srv := grpc.NewServer(serve...)
		controlv1.RegisterRaftServiceServer(srv, store.RaftService())
		served := make(chan error, 1)
		go func() { served <- srv.Serve(listeners[n]) }()
		b.Cleanup(func() {
			if err := store.Close(); err != nil {
				b.Error(err)
			}
			srv.Stop()
			<-served
		})
		stores = append(stores, store)
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		for _, s := range stores {
			if s.Leadership().Leader {
				return func(cmd []byte) {
					if _, err := s.Propose(context.Background(), cmd); err != nil {
						b.Error(err)
					}
				}
			}
		}
	}
	b.Fatal("no leader")
	return nil
}

type bareFSM struct{}

func (bareFSM) Apply(*raft.Log) any                 { return nil }
func (bareFSM) Snapshot() (raft.FSMSnapshot, error) { return nil, raft.ErrNothingNewToSnapshot }
func (bareFSM) Restore(r io.ReadCloser) error       { return r.Close() }

// bareLog is a log as the library's users open it.
func bareLog(b *testing.B, dir string) interface {
	raft.LogStore
	raft.StableStore
} {
	b.Helper()
	if kindOf(b) == raftstore.LogWAL {
		log, err := wal.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { log.Close() })
		return log
	}
	log, err := raftboltdb.New(raftboltdb.Options{
		Path: filepath.Join(dir, "raft.db"), BoltOptions: &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { log.Close() })
	return log
}

func startBare(b *testing.B) func([]byte) {
	b.Helper()
	var transports []*raft.NetworkTransport
	var first raft.Configuration
	for n := range 3 {
		t, err := raft.NewTCPTransportWithLogger("127.0.0.1:0", nil, 3, 10*time.Second, hclog.NewNullLogger())
		if err != nil {
			b.Fatal(err)
		}
		transports = append(transports, t)
		first.Servers = append(first.Servers, raft.Server{ID: raft.ServerID(fmt.Sprint(n + 1)), Address: t.LocalAddr()})
	}
	var nodes []*raft.Raft
	for n, t := range transports {
		log := bareLog(b, b.TempDir())
		conf := raft.DefaultConfig()
		conf.LocalID, conf.Logger, conf.BatchApplyCh = first.Servers[n].ID, hclog.NewNullLogger(), true
		snapshots := raft.NewInmemSnapshotStore()
		if err := raft.BootstrapCluster(conf, log, log, snapshots, t, first); err != nil {
			b.Fatal(err)
		}
		node, err := raft.NewRaft(conf, bareFSM{}, log, log, snapshots, t)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := node.Shutdown().Error(); err != nil {
				b.Error(err)
			}
			t.Close()
		})
		nodes = append(nodes, node)
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		for _, node := range nodes {
			if node.State() == raft.Leader {
				return func(cmd []byte) {
					if err := node.Apply(cmd, 10*time.Second).Error(); err != nil {
						b.Error(err)
					}
				}
			}
		}
	}
	b.Fatal("no leader")
	return nil
}
