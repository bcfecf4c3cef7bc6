package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/internal/version"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

const (
	// announceEvery is how often a router looks whether the cluster knows what it should know of it.
	announceEvery   = 200 * time.Millisecond
	announceTimeout = 5 * time.Second
	// forgetTimeout bounds one try to take a router that has left out of the letters' servers.
	forgetTimeout = 5 * time.Second
)

// tendRouters keeps what the cluster knows of its routers right: each tells of itself, and the leader forgets those that have left.
func (r *Router) tendRouters(ctx context.Context) error {
	if len(r.cfg.Peers) < 2 {
		return nil
	}
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	said := ""
	for !r.removed.Load() {
		err := r.correctAddress(ctx)
		if err == nil {
			err = r.announce(ctx)
		}
		if err == nil {
			err = r.forgetRouters(ctx)
		}
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			r.logger.Warn("what the cluster knows of its routers is not up to date yet; it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// correctAddress is for the leader: a router that was founded alone may have an address by which nobody else reaches it.
func (r *Router) correctAddress(ctx context.Context) error {
	if _, leads := r.controller.Leading(); !leads {
		return nil
	}
	members, err := r.store.Membership()
	if err != nil {
		return err
	}
	self, _ := r.cfg.self()
	address := self.Address.String()
	own := slices.IndexFunc(members.Servers, func(s raftstore.Server) bool { return s.ID == r.store.ServerID() })
	if own < 0 || members.Servers[own].Address == address {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	if _, err := r.store.SetAddress(ctx, r.store.ServerID(), address, members.Index); err != nil {
		return err
	}
	r.logger.Info("the cluster knows this router by another address", "was", members.Servers[own].Address, "is", address)
	return nil
}

// announce tells the leader of this router, unless it knows already.
func (r *Router) announce(ctx context.Context) error {
	fingerprint, err := r.machine.Fingerprint()
	if err != nil {
		return err
	}
	own := &statepb.Router{
		ServerId: r.store.ServerID(), LettersAddress: r.lettersAddress(), LettersBytes: uint64(r.lettersRoom), Version: version.Get().Version, FeatureLevel: state.FeatureLevel,
		Fingerprint: fingerprint,
	}
	if proto.Equal(r.machine.View().Routers[own.GetServerId()], own) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	if _, leads := r.controller.Leading(); leads {
		_, err := r.controller.Propose(ctx, &statepb.Command{Kind: &statepb.Command_AnnounceRouter{AnnounceRouter: &statepb.AnnounceRouter{Router: own}}})
		return err
	}
	leader := r.leader()
	if leader.address == "" {
		return nil // there is nobody to tell
	}
	conn, err := r.dial(leader.id, leader.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	req := &controlv1.AnnounceRequest{
		ServerId: own.GetServerId(), LettersAddress: own.GetLettersAddress(), Version: own.GetVersion(), FeatureLevel: own.GetFeatureLevel(),
		LettersBytes: own.GetLettersBytes(),
	}
	if fingerprint != nil {
		req.Fingerprint = &controlv1.StateFingerprint{Index: fingerprint.GetIndex(), Sum: fingerprint.GetSum(), Build: fingerprint.GetBuild()}
	}
	if _, err := controlv1.NewRouterServiceClient(conn).Announce(ctx, req); err != nil {
		return fmt.Errorf("announce this router to router %s: %w", leader.id, err)
	}
	return nil
}

// forgetRouters is for the leader.
func (r *Router) forgetRouters(ctx context.Context) error {
	if _, leads := r.controller.Leading(); !leads {
		return nil
	}
	members, err := r.members()
	if err != nil {
		return err
	}
	var errs []error
	for id := range r.machine.View().Routers {
		if _, is := members[id]; !is {
			errs = append(errs, r.forget(ctx, id))
		}
	}
	return errors.Join(errs...)
}

func (r *Router) forget(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, forgetTimeout)
	defer cancel()
	if err := r.letters.Forget(ctx, id); err != nil {
		return err
	}
	_, err := r.controller.Propose(ctx, &statepb.Command{Kind: &statepb.Command_ForgetRouter{ForgetRouter: &statepb.ForgetRouter{ServerId: id}}})
	if err == nil {
		r.logger.Info("router that has left is forgotten", "server", id)
	}
	return err
}

// members are the addresses of the members by their ids.
func (r *Router) members() (map[string]string, error) {
	servers, err := r.store.Servers()
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(servers))
	for _, s := range servers {
		out[s.ID] = s.Address
	}
	return out, nil
}
