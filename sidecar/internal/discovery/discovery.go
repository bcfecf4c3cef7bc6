// Package discovery finds the services beside a sidecar: it looks at ports of loopback again and again and asks what they offer.
//
// Anything may listen on those ports. Answers are bounded in size, number and time; what does not describe itself as a service is left alone
// and looked at again later, Conveyor's own routers and sidecars among it. Only the given ports of loopback are ever dialled.
package discovery

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// MaxPorts is how many ports are looked at.
const MaxPorts = 64

// DefaultInterval is how often a port is looked at.
const DefaultInterval = time.Second

const (
	// describeEvery is how often a service that is there is asked again what it offers.
	describeEvery = 30 * time.Second
	// firstLook is how long the first result may wait for ports that do not answer.
	firstLook = time.Second
	// atOnce is how many ports are asked at the same time.
	atOnce = 16
)

// Config says where to look.
type Config struct {
	// Ports of loopback; of more than MaxPorts the first are taken.
	Ports []int
	// Skip are ports among them that are the sidecar's own.
	Skip []int
	// Interval at which ports are looked at; 0 means DefaultInterval.
	Interval time.Duration
	// Logger receives services that come and go; nil discards them.
	Logger *slog.Logger
}

// Scanner looks for services. Make it with New, run it once with Run.
type Scanner struct {
	interval time.Duration
	log      *slog.Logger
	targets  []*target
	asking   chan struct{}

	mu sync.Mutex
	// found is what each address offers. guarded by mu.
	found map[string]*controlv1.Endpoint
	// changed is sent to when found changed.
	changed chan struct{}
}

// New returns a scanner that does not run yet.
func New(cfg Config) *Scanner {
	s := &Scanner{
		interval: cfg.Interval,
		log:      cfg.Logger,
		asking:   make(chan struct{}, atOnce),
		found:    map[string]*controlv1.Endpoint{},
		changed:  make(chan struct{}, 1),
	}
	if s.interval <= 0 {
		s.interval = DefaultInterval
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	ports := slices.DeleteFunc(slices.Clone(cfg.Ports), func(p int) bool { return slices.Contains(cfg.Skip, p) })
	slices.Sort(ports)
	ports = slices.Compact(ports)
	for _, port := range ports[:min(len(ports), MaxPorts)] {
		for _, host := range []string{"127.0.0.1", "::1"} {
			s.targets = append(s.targets, &target{scanner: s, address: net.JoinHostPort(host, strconv.Itoa(port)), port: port})
		}
	}
	return s
}

// Run looks until ctx ends. It calls emit from one goroutine with the whole of what there is: once after the first look, even when there is
// nothing, and then at every change, ordered by port. The endpoints are not changed afterwards.
func (s *Scanner) Run(ctx context.Context, emit func([]*controlv1.Endpoint)) {
	ctx, cancel := context.WithCancel(ctx)
	var wg, first sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	first.Add(len(s.targets))
	for _, t := range s.targets {
		wg.Go(func() { t.run(ctx, first.Done) })
	}
	looked := make(chan struct{})
	wg.Go(func() {
		first.Wait() // every run calls Done, also when ctx ends
		close(looked)
	})
	late := time.NewTimer(firstLook)
	defer late.Stop()
	select {
	case <-looked:
	case <-late.C:
	case <-ctx.Done():
		return
	}
	emit(s.endpoints())
	for {
		select {
		case <-s.changed:
			emit(s.endpoints())
		case <-ctx.Done():
			return
		}
	}
}

// set notes what an address offers; nil means nothing.
func (s *Scanner) set(address string, endpoint *controlv1.Endpoint) {
	s.mu.Lock()
	if endpoint == nil {
		delete(s.found, address)
	} else {
		s.found[address] = endpoint
	}
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// endpoints returns one endpoint for each port that has a service, within the bounds of a report.
func (s *Scanner) endpoints() []*controlv1.Endpoint {
	s.mu.Lock()
	out := make([]*controlv1.Endpoint, 0, len(s.found))
	for _, e := range s.found {
		out = append(out, e)
	}
	s.mu.Unlock()
	// 127.0.0.1 comes before ::1, and a service that listens on both is one.
	slices.SortFunc(out, func(a, b *controlv1.Endpoint) int {
		return cmp.Or(cmp.Compare(a.GetPort(), b.GetPort()), cmp.Compare(a.GetAddress(), b.GetAddress()))
	})
	out = slices.CompactFunc(out, func(a, b *controlv1.Endpoint) bool { return a.GetPort() == b.GetPort() })
	return s.fit(out)
}
