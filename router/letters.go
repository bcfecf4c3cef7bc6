package router

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/router/internal/letters"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// lettersAddress is where the dead-letter servers of others reach this router's: at the host at which its API is reached.
func (r *Router) lettersAddress() string {
	self, _ := r.cfg.self()
	return net.JoinHostPort(self.Address.Host, strconv.Itoa(int(r.cfg.DLQPort)))
}

// letterCluster is how the dead letters are kept by several routers; nil for one that is alone.
func (r *Router) letterCluster() *letters.Cluster {
	if len(r.cfg.Peers) < 2 {
		return nil
	}
	var peerTLS *tls.Config
	if r.certs != nil {
		peerTLS = r.certs.PeerTLS(certs.RoleRouter)
	}
	return &letters.Cluster{
		TLS: peerTLS, Name: r.store.ClusterID, ServerName: r.store.ServerID(), Listen: net.JoinHostPort(r.cfg.listenHost(), strconv.Itoa(int(r.cfg.DLQPort))),
		Routes: r.letterRoutes, Room: r.lettersRoom, Least: r.leastLettersRoom, Leading: func() (context.Context, bool) { return r.controller.Leading() }, Mark: letterMark{r},
	}
}

// letterRoutes are the letters' addresses of all members, once all have announced themselves.
func (r *Router) letterRoutes() (map[string]string, bool) {
	members, err := r.members()
	if err != nil || len(members) == 0 {
		return nil, false
	}
	view := r.machine.View()
	out := make(map[string]string, len(members))
	for id := range members {
		known := view.Routers[id]
		if known == nil {
			return nil, false
		}
		out[id] = known.GetLettersAddress()
	}
	return out, true
}

// leastLettersRoom is that of the member that gives letters the fewest bytes. One that has not said so yet does not count.
func (r *Router) leastLettersRoom() int64 {
	least := r.lettersRoom
	members, err := r.members()
	if err != nil {
		return least
	}
	view := r.machine.View()
	for id := range members {
		if n := int64(min(view.Routers[id].GetLettersBytes(), math.MaxInt64)); n > 0 {
			least = min(least, n)
		}
	}
	return least
}

// letterMark keeps the high-water mark of the letters in the state of the cluster. Only the leader can change that, which fences a store that one who led before has
// still open.
type letterMark struct{ r *Router }

// Load implements dlq.Mark.
func (m letterMark) Load(ctx context.Context) ([]byte, error) {
	if err := m.r.store.Read(ctx); err != nil {
		return nil, err
	}
	return m.r.machine.LetterMark(), nil
}

// Save implements dlq.Mark.
func (m letterMark) Save(ctx context.Context, mark []byte, version uint64) error {
	_, err := m.r.controller.Propose(ctx, &statepb.Command{Kind: &statepb.Command_StoreLetterMark{
		StoreLetterMark: &statepb.StoreLetterMark{Version: version, Mark: mark},
	}})
	if rejection, ok := errors.AsType[*state.RejectedError](err); ok && rejection.Reason == state.Conflict {
		// Callers are to learn that letters cannot be stored now, and not that what they asked for is in conflict.
		return fmt.Errorf("%w: %s", dlq.ErrSuperseded, rejection.Message)
	}
	return err
}
