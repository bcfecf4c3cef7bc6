package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// server is a gRPC server on loopback that can be killed and started again at the same address.
type server struct {
	t        testing.TB
	addr     string
	register func(*grpc.Server)

	mu   sync.Mutex
	grpc *grpc.Server
	wg   sync.WaitGroup
}

func serve(t testing.TB, register func(*grpc.Server)) *server {
	t.Helper()
	s := &server{t: t, addr: "127.0.0.1:0", register: register}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *server) start() {
	s.t.Helper()
	var lis net.Listener
	var err error
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 100 {
		if lis, err = net.Listen("tcp", s.addr); err == nil {
			break
		}
		<-tick.C // the port may still be going down
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = lis.Addr().String()
	g := grpc.NewServer(grpc.MaxRecvMsgSize(16 << 20))
	s.register(g)
	s.mu.Lock()
	s.grpc = g
	s.mu.Unlock()
	s.wg.Go(func() { _ = g.Serve(lis) })
}

func (s *server) kill() {
	s.mu.Lock()
	g := s.grpc
	s.mu.Unlock()
	g.Stop()
	s.wg.Wait()
}

// fakeSource is a source of records whose positions are their numbers, counted from 1.
type fakeSource struct {
	conveyorv1.UnimplementedSourceServiceServer
	*server
	records []*conveyorv1.Record
	endless bool // more may be added; otherwise the end is exhausted

	// breakAfter, when positive, breaks the stream after so many records on it, once.
	breakAfter atomic.Int64
	overdraw   bool  // ignores its credit
	gone       bool  // does not know the positions that it is given
	refusal    error // of every opening
	latest     []byte
	// onCommit is called with every commit.
	onCommit func(position []byte)

	mu      sync.Mutex
	opens   []string // positions of the openings
	commits []string
	sent    int
}

func newSource(t testing.TB, records ...*conveyorv1.Record) *fakeSource {
	s := &fakeSource{records: records}
	for i, r := range records {
		if r.Position == nil {
			r.Position = []byte(strconv.Itoa(i + 1))
		}
	}
	s.server = serve(t, func(g *grpc.Server) { conveyorv1.RegisterSourceServiceServer(g, s) })
	return s
}

// numbered makes n records with keys from 0 to keys-1; none have keys when that is 0.
func numbered(n, keys int) []*conveyorv1.Record {
	records := make([]*conveyorv1.Record, n)
	for i := range records {
		records[i] = &conveyorv1.Record{Payload: []byte(strconv.Itoa(i + 1))}
		if keys > 0 {
			records[i].Key = []byte(fmt.Sprintf("k%d", (i*7)%keys))
		}
	}
	return records
}

func (s *fakeSource) Describe(context.Context, *conveyorv1.SourceServiceDescribeRequest) (*conveyorv1.SourceServiceDescribeResponse, error) {
	return &conveyorv1.SourceServiceDescribeResponse{Abilities: []*conveyorv1.Ability{{Kind: conveyorv1.ServiceKind_SERVICE_KIND_SOURCE}}}, nil
}

func (s *fakeSource) ListPartitions(context.Context, *conveyorv1.ListPartitionsRequest) (*conveyorv1.ListPartitionsResponse, error) {
	return &conveyorv1.ListPartitionsResponse{}, nil
}

func (s *fakeSource) Pull(stream grpc.BidiStreamingServer[conveyorv1.PullRequest, conveyorv1.PullResponse]) error {
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	position := req.GetOpen().GetPosition()
	s.mu.Lock()
	s.opens = append(s.opens, string(position))
	latest := s.latest
	s.mu.Unlock()
	if s.refusal != nil {
		return s.refusal
	}
	if s.gone && len(position) > 0 {
		return status.Errorf(codes.OutOfRange, "position %s is gone", position)
	}
	opened := &conveyorv1.PullOpened{}
	if len(position) == 0 && latest != nil {
		opened.Position, position = latest, latest
	}
	if err := stream.Send(&conveyorv1.PullResponse{Response: &conveyorv1.PullResponse_Opened{Opened: opened}}); err != nil {
		return err
	}
	at := 0
	if len(position) > 0 {
		if at, err = strconv.Atoi(string(position)); err != nil {
			return status.Error(codes.InvalidArgument, "strange position")
		}
	}
	var mu sync.Mutex
	var credit conveyorv1.PullCredit
	stop := false
	wake := make(chan struct{}, 1)
	var out sync.Mutex
	go func() {
		for {
			req, err := stream.Recv()
			if err != nil {
				return
			}
			mu.Lock()
			switch r := req.GetRequest().(type) {
			case *conveyorv1.PullRequest_Credit:
				credit.Records, credit.Bytes = r.Credit.GetRecords(), r.Credit.GetBytes()
			case *conveyorv1.PullRequest_Stop:
				stop = true
			case *conveyorv1.PullRequest_Commit:
				p := r.Commit.GetPosition()
				s.mu.Lock()
				s.commits = append(s.commits, string(p))
				s.mu.Unlock()
				if s.onCommit != nil {
					s.onCommit(p)
				}
				out.Lock()
				_ = stream.Send(&conveyorv1.PullResponse{Response: &conveyorv1.PullResponse_Committed{Committed: &conveyorv1.PullCommitted{Position: p}}})
				out.Unlock()
			}
			mu.Unlock()
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}()
	var records, bytes uint64
	for {
		mu.Lock()
		stopped := stop
		limit := credit.GetRecords()
		size := credit.GetBytes()
		mu.Unlock()
		if stopped || at >= len(s.records) && !s.endless {
			break
		}
		n := 0
		if at < len(s.records) {
			b := uint64(0)
			for at+n < len(s.records) && n < 100 && b < 512<<10 {
				next := uint64(proto.Size(s.records[at+n]))
				if !s.overdraw && (records+uint64(n) >= limit || bytes+b+next > size) {
					break
				}
				b += next
				n++
			}
			bytes += b
		}
		if n == 0 {
			select {
			case <-stream.Context().Done():
				return stream.Context().Err()
			case <-wake:
			}
			continue
		}
		if k := s.breakAfter.Load(); k > 0 && records+uint64(n) >= uint64(k) {
			s.breakAfter.Store(0)
			return status.Error(codes.Unavailable, "the source broke")
		}
		out.Lock()
		err := stream.Send(&conveyorv1.PullResponse{Response: &conveyorv1.PullResponse_Batch{Batch: &conveyorv1.RecordBatch{Records: s.records[at : at+n]}}})
		out.Unlock()
		if err != nil {
			return err
		}
		at += n
		records += uint64(n)
		s.mu.Lock()
		s.sent += n
		s.mu.Unlock()
	}
	mu.Lock()
	exhausted := !stop
	mu.Unlock()
	out.Lock()
	err = stream.Send(&conveyorv1.PullResponse{Response: &conveyorv1.PullResponse_End{End: &conveyorv1.PullEnd{Exhausted: exhausted}}})
	out.Unlock()
	if err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// verdicts decides what becomes of a record; nil takes it.
type verdicts func(*conveyorv1.Record) *conveyorv1.Failure

func failure(class conveyorv1.FailureClass, code string) *conveyorv1.Failure {
	return &conveyorv1.Failure{Class: class, Code: code, Message: "the test wants it so"}
}

// ordered makes verdicts keep the promise of an ordered service: after a failure the key is refused until that record comes again or the
// key is released.
type ordered struct {
	mu      sync.Mutex
	failing map[string]string // key to id
}

func (o *ordered) judge(r *conveyorv1.Record, next verdicts) *conveyorv1.Failure {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := string(r.GetKey())
	if id, ok := o.failing[key]; ok && key != "" && id != r.GetId() {
		return failure(conveyorv1.FailureClass_FAILURE_CLASS_NOT_TRIED, "")
	}
	delete(o.failing, key)
	f := next(r)
	if f != nil && key != "" {
		o.failing[key] = r.GetId()
	}
	return f
}

// fakeSink keeps what it is given.
type fakeSink struct {
	conveyorv1.UnimplementedSinkServiceServer
	*server
	ability *conveyorv1.Ability
	judge   atomic.Pointer[verdicts]
	// rubbish, when set, may answer a request in its own way; false answers as usual.
	rubbish func(stream grpc.BidiStreamingServer[conveyorv1.WriteRequest, conveyorv1.WriteResponse], req *conveyorv1.WriteRequest) (bool, error)
	mute    atomic.Bool // never answers an opening
	refusal error       // of every opening
	gate    chan struct{}

	mu        sync.Mutex
	got       []*conveyorv1.Record
	completes int
	opens     int
	asked     int // records in all requests
	keyOrder  map[string]int
	disorder  []string
}

func newSink(t testing.TB) *fakeSink {
	s := &fakeSink{ability: &conveyorv1.Ability{Kind: conveyorv1.ServiceKind_SERVICE_KIND_SINK}, keyOrder: map[string]int{}}
	s.server = serve(t, func(g *grpc.Server) { conveyorv1.RegisterSinkServiceServer(g, s) })
	return s
}

func (s *fakeSink) decide(v verdicts) { s.judge.Store(&v) }

func (s *fakeSink) Describe(context.Context, *conveyorv1.SinkServiceDescribeRequest) (*conveyorv1.SinkServiceDescribeResponse, error) {
	return &conveyorv1.SinkServiceDescribeResponse{Abilities: []*conveyorv1.Ability{s.ability}}, nil
}

func (s *fakeSink) Write(stream grpc.BidiStreamingServer[conveyorv1.WriteRequest, conveyorv1.WriteResponse]) error {
	order := &ordered{failing: map[string]string{}}
	for {
		req, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		resp := &conveyorv1.WriteResponse{Sequence: req.GetSequence()}
		switch {
		case req.GetOpen() != nil:
			if s.mute.Load() {
				<-stream.Context().Done()
				return nil
			}
			if s.refusal != nil {
				return s.refusal
			}
			s.mu.Lock()
			s.opens++
			s.mu.Unlock()
			resp.Opened = &conveyorv1.WriteOpened{}
		case req.GetReleased() != nil:
			order.mu.Lock()
			delete(order.failing, string(req.GetReleased().GetKey()))
			order.mu.Unlock()
			continue
		case req.GetComplete() != nil:
			s.mu.Lock()
			s.completes++
			s.mu.Unlock()
			resp.Completed = &conveyorv1.WriteCompleted{}
		default:
			if s.gate != nil {
				select {
				case <-s.gate:
				case <-stream.Context().Done():
					return nil
				}
			}
			if s.rubbish != nil {
				if done, err := s.rubbish(stream, req); done || err != nil {
					if err != nil {
						return err
					}
					continue
				}
			}
			s.write(req, resp, order)
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

func (s *fakeSink) write(req *conveyorv1.WriteRequest, resp *conveyorv1.WriteResponse, order *ordered) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range req.GetBatch().GetRecords() {
		s.asked++
		res := &conveyorv1.WriteResult{First: uint32(i), Count: 1}
		var f *conveyorv1.Failure
		if judge := s.judge.Load(); judge != nil {
			if s.ability.GetOrdered() {
				f = order.judge(r, *judge)
			} else {
				f = (*judge)(r)
			}
		}
		if f != nil {
			res.Outcome = &conveyorv1.WriteResult_Error{Error: f}
		} else {
			res.Outcome = &conveyorv1.WriteResult_Ok{Ok: &conveyorv1.Written{}}
			s.got = append(s.got, r)
			if n, err := strconv.Atoi(string(r.GetPayload())); err == nil && len(r.GetKey()) > 0 {
				if before := s.keyOrder[string(r.GetKey())]; n < before {
					s.disorder = append(s.disorder, fmt.Sprintf("%d of key %s after %d", n, r.GetKey(), before))
				}
				s.keyOrder[string(r.GetKey())] = n
			}
		}
		resp.Results = append(resp.Results, res)
	}
}

func (s *fakeSink) records() []*conveyorv1.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func (s *fakeSink) payloads() map[string]int {
	got := map[string]int{}
	for _, r := range s.records() {
		got[string(r.GetPayload())]++
	}
	return got
}

// fakeTransform maps a record to a result; the zero fate passes it on.
type fakeTransform struct {
	conveyorv1.UnimplementedTransformServiceServer
	*server
	ability *conveyorv1.Ability
	do      func(*conveyorv1.Record) fate
	rubbish func(req *conveyorv1.ProcessRequest, resp *conveyorv1.ProcessResponse)
}

type fate struct {
	fail     *conveyorv1.Failure
	filtered bool
	out      []*conveyorv1.Record // nil passes the record on
	route    []string
}

func newTransform(t testing.TB, do func(*conveyorv1.Record) fate) *fakeTransform {
	s := &fakeTransform{ability: &conveyorv1.Ability{Kind: conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM}, do: do}
	s.server = serve(t, func(g *grpc.Server) { conveyorv1.RegisterTransformServiceServer(g, s) })
	return s
}

func (s *fakeTransform) Describe(context.Context, *conveyorv1.TransformServiceDescribeRequest) (*conveyorv1.TransformServiceDescribeResponse, error) {
	return &conveyorv1.TransformServiceDescribeResponse{Abilities: []*conveyorv1.Ability{s.ability}}, nil
}

func (s *fakeTransform) Process(stream grpc.BidiStreamingServer[conveyorv1.ProcessRequest, conveyorv1.ProcessResponse]) error {
	order := &ordered{failing: map[string]string{}}
	for {
		req, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		resp := &conveyorv1.ProcessResponse{Sequence: req.GetSequence()}
		switch {
		case req.GetOpen() != nil:
			resp.Opened = &conveyorv1.ProcessOpened{}
		case req.GetReleased() != nil:
			order.mu.Lock()
			delete(order.failing, string(req.GetReleased().GetKey()))
			order.mu.Unlock()
			continue
		default:
			resp.Batch = &conveyorv1.RecordBatch{}
			for i, r := range req.GetBatch().GetRecords() {
				res := &conveyorv1.ProcessResult{First: uint32(i), Count: 1}
				var f fate
				if s.ability.GetOrdered() {
					f.fail = order.judge(r, func(r *conveyorv1.Record) *conveyorv1.Failure {
						f = s.do(r)
						return f.fail
					})
				} else {
					f = s.do(r)
				}
				switch {
				case f.fail != nil:
					res.Outcome = &conveyorv1.ProcessResult_Error{Error: f.fail}
				case f.filtered:
					res.Outcome = &conveyorv1.ProcessResult_Filtered{Filtered: &conveyorv1.Filtered{}}
				default:
					if f.out == nil {
						f.out = []*conveyorv1.Record{r}
					}
					resp.Batch.Records = append(resp.Batch.Records, f.out...)
					res.Outcome = &conveyorv1.ProcessResult_Ok{Ok: &conveyorv1.Outputs{Each: uint32(len(f.out)), Route: f.route}}
				}
				resp.Results = append(resp.Results, res)
			}
			if s.rubbish != nil {
				s.rubbish(req, resp)
			}
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}
