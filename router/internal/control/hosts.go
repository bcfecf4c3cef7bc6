package control

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	resolveTimeout = time.Second
	resolvedFor    = 30 * time.Second
	unresolvedFor  = 5 * time.Second
)

// Resolver looks up host names; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// hosts remembers the addresses of host names for a while. It belongs to one goroutine.
type hosts struct {
	resolver Resolver
	known    map[string]answer
}

type answer struct {
	addrs []netip.Addr
	until time.Time
}

func newHosts(r Resolver) *hosts {
	if r == nil {
		r = net.DefaultResolver
	}
	return &hosts{resolver: r, known: map[string]answer{}}
}

// resolve looks up those names that are not known, all at once and within a bound; a name without an answer has no addresses.
func (h *hosts) resolve(ctx context.Context, names []string) {
	now := time.Now()
	for name, a := range h.known {
		if now.After(a.until) {
			delete(h.known, name)
		}
	}
	fresh := map[string]answer{}
	for _, name := range names {
		if _, ok := h.known[name]; !ok {
			fresh[name] = answer{until: now.Add(unresolvedFor)}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range slices.Sorted(maps.Keys(fresh)) {
		wg.Go(func() {
			addrs, err := h.resolver.LookupNetIP(ctx, "ip", name)
			if err == nil && len(addrs) > 0 {
				mu.Lock()
				defer mu.Unlock()
				fresh[name] = answer{addrs: addrs, until: now.Add(resolvedFor)}
			}
		})
	}
	wg.Wait()
	maps.Copy(h.known, fresh)
}

func (h *hosts) addresses(name string) []netip.Addr { return h.known[name].addrs }

// isLoopback knows "localhost" and loopback addresses: they mean the host of whoever dials.
func isLoopback(host string) bool {
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}
