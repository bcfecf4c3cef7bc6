package discovery

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

const (
	// knockTimeout bounds a look at whether anything listens.
	knockTimeout = 500 * time.Millisecond
	// maxMisses is how many looks in a row a service may fail before it is gone.
	maxMisses = 2
)

// target is one address that is looked at. It belongs to the goroutine of its run.
type target struct {
	scanner *Scanner
	address string
	port    int

	// conn is kept open to a service, so that its end is seen at once, and a quick restart is not missed.
	conn *grpc.ClientConn
	// known is what the service said last; nil while there is none.
	known *controlv1.Endpoint
	// misses counts the looks in a row that the service failed.
	misses int
	// open: something listened at the last look.
	open bool
	// refusals counts how often in a row what listens did not describe itself.
	refusals int
	// ask is when to ask next.
	ask time.Time
	// said is the fault that was logged last.
	said string
}

// run looks until ctx ends; first is called after the first look.
func (t *target) run(ctx context.Context, first func()) {
	defer t.hangUp()
	t.look(ctx)
	first()
	for {
		t.rest(ctx)
		if ctx.Err() != nil {
			return
		}
		t.look(ctx)
	}
}

// rest waits for the next look: about an interval, or until the connection to the service changes.
func (t *target) rest(ctx context.Context) {
	interval := t.scanner.interval
	ctx, cancel := context.WithTimeout(ctx, interval-interval/8+rand.N(interval/4+1))
	defer cancel()
	if t.conn != nil && t.conn.GetState() == connectivity.Ready {
		t.conn.WaitForStateChange(ctx, connectivity.Ready)
		return
	}
	<-ctx.Done()
}

func (t *target) look(ctx context.Context) {
	due := !time.Now().Before(t.ask)
	if t.known != nil {
		if due || t.conn.GetState() != connectivity.Ready {
			t.meet(ctx)
		}
		return
	}
	was := t.open
	t.open = t.knock(ctx)
	if t.open && (due || !was) {
		t.meet(ctx)
	}
}

// knock reports whether anything listens.
func (t *target) knock(ctx context.Context) bool {
	d := net.Dialer{Timeout: knockTimeout}
	conn, err := d.DialContext(ctx, "tcp", t.address)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was written
	return true
}

// meet asks what the address offers and takes note of the answer.
func (t *target) meet(ctx context.Context) {
	select {
	case t.scanner.asking <- struct{}{}:
		defer func() { <-t.scanner.asking }()
	case <-ctx.Done():
		return
	}
	if t.known != nil && t.misses > 0 {
		t.hangUp() // the connection may be what is wrong
	}
	if t.conn == nil {
		conn, err := dial(t.address)
		if err != nil {
			t.refused(err)
			return
		}
		t.conn = conn
	}
	abilities, err := describe(ctx, t.conn)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		t.refused(err)
	default:
		t.accepted(abilities)
	}
}

func (t *target) accepted(d *description) {
	next := &controlv1.Endpoint{Address: t.address, Port: uint32(t.port), Abilities: d.abilities}
	t.misses, t.refusals, t.said = 0, 0, ""
	t.ask = time.Now().Add(describeEvery)
	for _, fault := range d.faults {
		t.scanner.log.Warn("service describes something that cannot be used", "address", t.address, "err", fault)
	}
	if proto.Equal(t.known, next) {
		return
	}
	if t.known == nil {
		t.scanner.log.Info("service found", "address", t.address, "abilities", names(d.abilities))
	} else {
		t.scanner.log.Info("service changed", "address", t.address, "abilities", names(d.abilities))
	}
	t.known = next
	t.scanner.set(t.address, next)
}

func (t *target) refused(err error) {
	if t.known != nil {
		if t.misses++; t.misses < maxMisses {
			t.ask = time.Time{}
			return
		}
		t.known, t.open = nil, false // if anything listens at the next look, it is asked at once
		t.scanner.set(t.address, nil)
		t.scanner.log.Info("service gone", "address", t.address, "err", err)
	} else if said := err.Error(); t.open && said != t.said {
		t.said = said
		t.scanner.log.Debug("no service here", "address", t.address, "err", err)
	}
	t.hangUp()
	t.misses = 0
	wait := describeEvery
	if !errors.Is(err, errNoService) {
		wait = min(wait, t.scanner.interval<<min(t.refusals, 10))
	}
	t.refusals++
	t.ask = time.Now().Add(wait)
}

func (t *target) hangUp() {
	if t.conn != nil {
		_ = t.conn.Close() // nothing is under way
		t.conn = nil
	}
}
