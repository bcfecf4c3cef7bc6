package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// MaxCommandBytes is the largest command.
const MaxCommandBytes = 512 << 10

const (
	// A single voter elects itself; it waits only for its own timer.
	aloneTimeout = 50 * time.Millisecond
	applyTimeout = 10 * time.Second
)

// Config says where a node keeps its state and who it is.
type Config struct {
	// Dir holds log, snapshots and identity. It is made if missing and locked while the store is open.
	Dir string
	// ServerName is the part of the server's id that people choose, such as "1". The store adds an incarnation, made with the directory.
	ServerName string
	// Address is how other servers reach this one, host:port; it is kept in the cluster's configuration. A host name is looked up at each dialling.
	Address string
	// Peers says whom to meet, this server included. An empty list founds a cluster of one, which stays alone. Otherwise the cluster is founded once, by the
	// server with the lowest name, after all of the list have said that they are empty; an empty server that meets one with state waits to be added as a learner.
	// A directory with state does not need the list any more, only that it is not empty.
	Peers []Peer
	// DialOptions says how to dial a peer, with credentials by which the server that answers shows that it is the one of that name and not only one of the cluster; nil dials
	// this machine only, without any. It may be called concurrently.
	DialOptions func(to Peer) ([]grpc.DialOption, error)
	// Timeouts are those of a cluster with peers; the zero value means DefaultTimeouts.
	Timeouts Timeouts
	// SnapshotThreshold is after how many commands a snapshot is taken; 0 means 8192.
	SnapshotThreshold uint64
	// TrailingLogs is how many commands stay in the log behind a snapshot, for servers that lag; 0 means 10240. It is at least three times SnapshotThreshold.
	TrailingLogs uint64
	// Log is how the log lies on the disk. Empty means as it does already, and LogBolt in a new directory; another kind than the directory has is refused with an
	// *OtherLogError.
	Log LogKind
	// MinFree is how many bytes must be free on the volume of Dir; below, commands are refused with a *LowDiskError, and a leader hands over. 0 means 128 MiB, or a
	// twentieth of a smaller volume, and a negative value that commands go on until the disk is full, which ends the store.
	MinFree int64
	// Logger receives what operators should know; nil discards.
	Logger *slog.Logger
}

// Peer is a server to meet.
type Peer struct {
	// ServerName is what that server has in its Config.
	ServerName string
	// Address is where it is reached, host:port.
	Address string
}

// Timeouts say how soon a lost leader is noticed. Lease must not be longer than Heartbeat, nor Heartbeat longer than Election.
type Timeouts struct {
	// Heartbeat is how long a follower hears nothing before it stands for election.
	Heartbeat time.Duration
	// Election is how long a candidate waits for votes.
	Election time.Duration
	// Lease is how long a leader goes on without hearing of a majority.
	Lease time.Duration
}

// DefaultTimeouts let a lost leader be replaced within 3 seconds: a follower waits for one to two times Heartbeat, and an election that is split is repeated once.
var DefaultTimeouts = Timeouts{Heartbeat: 750 * time.Millisecond, Election: 750 * time.Millisecond, Lease: 400 * time.Millisecond}

// Result is what became of a command.
type Result struct {
	// Index of the command in the log.
	Index uint64
	// Value that the state machine returned.
	Value any
}

// Server is one member of the cluster.
type Server struct {
	// ID is what the server's ServerID says.
	ID string
	// Address is where it is reached, host:port.
	Address string
	// Voter is false for a learner, which receives the log and does not vote.
	Voter bool
}

// Store is an open node. Its methods may be called concurrently.
type Store struct {
	dir       string
	minFree   int64
	self      *self
	alone     bool // founded without peers, and so without timeouts for them
	logger    *slog.Logger
	raft      *raft.Raft
	log       persistent
	guard     *guard
	fault     atomic.Pointer[error]
	room      room
	diskHangs chan struct{}
	trans     *transport
	server    *service
	fsm       *fsm
	notify    chan bool
	restoring chan struct{} // has one place: who restores, and in the end Close

	mu      sync.Mutex
	lead    Leadership
	changed chan struct{} // closed and replaced when lead changes, closed for good by Close

	closing   chan struct{}
	stopped   chan struct{} // closed when raft has ended: what it has not answered by then, it never will
	closeOnce sync.Once
	closeErr  error
	wg        sync.WaitGroup
}

// Open opens the node in cfg.Dir, founding a cluster when the directory is empty: see Config.Peers. It does not wait for peers; they are met in the background, once
// RaftService is served. ctx bounds the opening only. The machine must be empty; it is restored from the newest snapshot before Open returns, and from the log
// before the node leads.
func Open(ctx context.Context, cfg Config, machine StateMachine) (*Store, error) {
	s, err := open(ctx, cfg, machine)
	if damaged := (*DamagedError)(nil); errors.As(err, &damaged) {
		id, _, _ := loadIdentity(cfg.Dir)
		damaged.Peers = damaged.Peers || len(cfg.Peers) > 0 || id.Joined
	}
	return s, err
}

func open(ctx context.Context, cfg Config, machine StateMachine) (*Store, error) {
	if cfg.Dir == "" || cfg.ServerName == "" {
		return nil, errors.New("open raft store: Dir and ServerName are required")
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open raft store: %w", context.Cause(ctx))
	}
	logger := cfg.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Address == "" {
		cfg.Address = "server-" + cfg.ServerName
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("open raft store: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open raft store: %w", err)
	}
	o := &opening{cfg: &cfg, hlog: newHCLog(logger)}
	log, path, err := o.openLog()
	if err != nil {
		return nil, err
	}
	s := &Store{
		dir: cfg.Dir, minFree: cfg.MinFree, restoring: make(chan struct{}, 1),
		alone: len(cfg.Peers) == 0, logger: logger, log: log, fsm: &fsm{machine: machine, failed: make(chan struct{})}, notify: make(chan bool, 16),
		changed: make(chan struct{}), closing: make(chan struct{}), stopped: make(chan struct{}), diskHangs: make(chan struct{}),
	}
	s.guard = &guard{persistent: log, failed: s.fail}
	if err := s.start(o, path); err != nil {
		if s.trans != nil {
			err = errors.Join(err, s.trans.stop())
		}
		return nil, errors.Join(err, s.log.Close())
	}
	s.wg.Go(s.watchLeadership)
	s.wg.Go(s.watchDisk)
	s.wg.Go(func() { s.watchSpace(&cfg) })
	if !s.alone && s.self.get().ClusterID == "" {
		s.wg.Go(func() { s.meet(&cfg) })
	}
	return s, nil
}

func (s *Store) start(o *opening, path string) error {
	cfg, hlog := o.cfg, o.hlog
	if err := checkLog(path, s.log, o.snapshotIndex); err != nil {
		return err
	}
	if err := o.openSnapshots(); err != nil {
		return err
	}
	snapshots, snapshotIndex := o.snapshots, o.snapshotIndex
	if !s.alone {
		snapshots = soundSnapshots{snapshots, filepath.Join(s.dir, snapshotsDir), s.fail}
	}
	conf := s.raftConfig(cfg)
	conf.Logger = hlog
	if err := s.found(cfg, conf, snapshots); err != nil {
		return err
	}
	if err := removeUnfinished(cfg.Dir); err != nil {
		return err
	}
	var err error
	if s.raft, err = raft.NewRaft(conf, s.fsm, s.guard, s.guard, snapshots, s.trans); err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	// The library would go on from an older one.
	if s.fsm.applied.Load() < snapshotIndex {
		cause := fmt.Errorf("the snapshot that ends at index %d could not be restored", snapshotIndex)
		if halted := s.fsm.halted.Load(); halted != nil {
			cause = fmt.Errorf("%w: %s", cause, halted.Reason)
		}
		return errors.Join(&DamagedError{Path: filepath.Join(cfg.Dir, snapshotsDir), Cause: cause}, s.raft.Shutdown().Error())
	}
	s.server.applied = s.raft.AppliedIndex
	servers := s.raft.GetConfiguration()
	if err := servers.Error(); err != nil {
		return errors.Join(fmt.Errorf("read the cluster's configuration: %w", err), s.raft.Shutdown().Error())
	}
	n := len(servers.Configuration().Servers)
	if s.alone && n == 0 {
		return errors.Join(&DamagedError{Path: path, Cause: errors.New("the cluster was founded, and neither the log nor a snapshot says of whom")}, s.raft.Shutdown().Error())
	}
	if s.alone && n != 1 {
		return errors.Join(fmt.Errorf("%s belongs to a cluster of %d: %w", cfg.Dir, n, ErrSeveralServers), s.raft.Shutdown().Error())
	}
	return nil
}

func (s *Store) raftConfig(cfg *Config) *raft.Config {
	conf := raft.DefaultConfig()
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = cfg.Timeouts.Heartbeat, cfg.Timeouts.Election, cfg.Timeouts.Lease
	// A server that was removed goes on as a follower without a vote, and can be asked.
	conf.ShutdownOnRemove = false
	conf.BatchApplyCh = true
	conf.NotifyCh = s.notify
	conf.NoLegacyTelemetry = true
	if cfg.SnapshotThreshold > 0 {
		conf.SnapshotThreshold = cfg.SnapshotThreshold
	}
	if cfg.TrailingLogs > 0 {
		conf.TrailingLogs = cfg.TrailingLogs
	}
	// More than twice the threshold stays, so that an older snapshot is still joined to the log.
	conf.TrailingLogs = max(conf.TrailingLogs, 3*conf.SnapshotThreshold)
	return conf
}

// ClusterID names the cluster; it is made when the cluster is founded. It is empty while this node waits for one.
func (s *Store) ClusterID() string { return s.self.get().ClusterID }

// ServerID names this node: ServerName and an incarnation that was made with the directory.
func (s *Store) ServerID() string { return s.self.get().ServerID }

// RaftService is what peers call; with peers it must be registered on the gRPC server that listens at Config.Address. It takes messages of up to 1 MiB, holds a
// bounded number of them, and answers Unavailable after Close.
func (s *Store) RaftService() controlv1.RaftServiceServer { return s.server }

// Refuse ends the calls of peers that RaftService has under way, and refuses those that come later: a gRPC server can be stopped in order then, which would wait for
// them otherwise. Who leads hands leadership over before. It may be called again.
func (s *Store) Refuse() { s.trans.refuse() }

// Propose replicates a command and waits until it is applied here. When ctx ends first, or leadership is lost, the error is ErrUnknownOutcome; ErrNotLeader
// says that the command was not applied, and a *LowDiskError that it was not even proposed.
func (s *Store) Propose(ctx context.Context, cmd []byte) (Result, error) {
	if len(cmd) > MaxCommandBytes {
		return Result{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(cmd), MaxCommandBytes)
	}
	if err := s.usable(); err != nil {
		return Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return Result{}, fmt.Errorf("propose: %w", context.Cause(ctx))
	}
	if low := s.room.low.Load(); low != nil {
		return Result{}, low
	}
	future := s.raft.Apply(seal(cmd), applyTimeout)
	if err := s.await(ctx, future); err != nil {
		return Result{}, err
	}
	value := future.Response()
	if err, ok := value.(*HaltedError); ok {
		return Result{}, err
	}
	return Result{Index: future.Index(), Value: value}, nil
}

func (s *Store) await(ctx context.Context, future raft.Future) error {
	done := make(chan error, 1)
	// Ends with the future. Raft leaves those unanswered that lie in its queues when it stops: their goroutines end with the process.
	go func() { done <- future.Error() }()
	select {
	case err := <-done:
		if err != nil {
			return proposeError(err)
		}
		return nil
	case <-s.stopped:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, context.Cause(ctx))
	}
}

// Read returns nil when everything that was acknowledged before the call is applied to the machine here: what is read of it afterwards is linearizable.
func (s *Store) Read(ctx context.Context) error {
	if err := s.usable(); err != nil {
		return err
	}
	lead := s.Leadership()
	if !lead.Leader {
		return ErrNotLeader
	}
	// A proposal is acknowledged after it was applied here, and those of earlier terms were applied before Leadership said so. What remains to be shown is that
	// nobody else leads by now.
	began := time.Now()
	if err := s.await(ctx, s.raft.VerifyLeader()); err != nil { // which sends a heartbeat to each peer
		return fmt.Errorf("%w: verify leadership: %w", ErrNotLeader, err)
	}
	if err := s.awaitFollowers(ctx, lead, began); err != nil {
		return err
	}
	// The term is asked of raft too: leadership that was lost and won again may not be known here yet, nor its Barrier passed.
	if s.Leadership() != lead || s.raft.CurrentTerm() != lead.Term {
		return ErrNotLeader
	}
	return nil
}

// awaitFollowers waits until a majority is known to have followed at some time after began.
func (s *Store) awaitFollowers(ctx context.Context, lead Leadership, began time.Time) error {
	voters, err := s.voters()
	if err != nil {
		return err
	}
	for {
		s.mu.Lock()
		now, leads := s.lead, s.changed
		s.mu.Unlock()
		if now != lead {
			return ErrNotLeader
		}
		ok, heard := s.trans.heard.followed(lead.Term, began, voters, raft.ServerID(s.ServerID()))
		if ok {
			return nil
		}
		select {
		case <-heard:
		case <-leads:
		case <-s.closing:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("%w: verify leadership: %w", ErrNotLeader, context.Cause(ctx))
		}
	}
}

func (s *Store) voters() (ids []raft.ServerID, err error) {
	servers, err := s.Servers()
	for _, server := range servers {
		if server.Voter {
			ids = append(ids, raft.ServerID(server.ID))
		}
	}
	return ids, err
}

func (s *Store) usable() error {
	select {
	case <-s.closing:
		return ErrClosed
	default:
		return s.Err()
	}
}

// Leader is the id of the server that leads, as far as this node knows, or "".
func (s *Store) Leader() string {
	_, id := s.raft.LeaderWithID()
	return string(id)
}

// AppliedIndex is the log index of the last command that the machine has applied.
func (s *Store) AppliedIndex() uint64 { return s.fsm.applied.Load() }

// Snapshot writes a snapshot now. It returns nil also when there is nothing new to write.
func (s *Store) Snapshot() error {
	if err := s.usable(); err != nil {
		return err
	}
	if err := s.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// Failed is closed when the machine halted, or the disk failed or hangs: this node serves nothing any more and should be stopped. Err says why.
func (s *Store) Failed() <-chan struct{} { return s.fsm.failed }

// Err is nil until Failed is closed.
func (s *Store) Err() error {
	if err := s.fault.Load(); err != nil {
		return *err
	}
	err := s.fsm.halted.Load()
	if err == nil {
		return nil // and not a nil pointer within an error
	}
	return err
}

// Close stops the node and returns when it uses the directory no more. While the disk hangs it returns ErrDiskHangs instead of waiting for it: the directory stays
// in use until the process ends. It may be called again.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		err := s.trans.stop() // or raft would wait for the answers of peers
		shut := make(chan error, 1)
		go func() { shut <- s.raft.Shutdown().Error() }() // ends here, or with the process
		var stopErr error
		select {
		case stopErr = <-shut:
		case <-s.diskHangs:
			stopErr = *s.fault.Load()
		}
		close(s.stopped)
		if errors.Is(stopErr, ErrDiskHangs) {
			s.closeErr = stopErr
			return
		}
		err = errors.Join(err, stopErr)
		s.restoring <- struct{}{}
		s.wg.Wait()
		s.setLeadership(Leadership{})
		s.closeErr = errors.Join(err, s.log.Close())
	})
	return s.closeErr
}
