package api

import (
	"context"
	"crypto/sha256"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/conveyor-etl/conveyor/internal/env"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// routers answers what routers ask of their leader.
type routers struct {
	controlv1.UnimplementedRouterServiceServer
	Config
}

// Announce implements controlv1.RouterServiceServer.
func (r *routers) Announce(ctx context.Context, req *controlv1.AnnounceRequest) (*controlv1.AnnounceResponse, error) {
	if _, err := env.ParseHostPort(req.GetLettersAddress()); err != nil {
		return nil, invalid("letters address %.260q of router %.100q: %v", req.GetLettersAddress(), req.GetServerId(), err)
	}
	if len(req.GetVersion()) > maxTextBytes {
		return nil, invalid("the version of router %.100q is too long", req.GetServerId())
	}
	var fingerprint *statepb.Fingerprint
	if f := req.GetFingerprint(); f != nil {
		if len(f.GetSum()) != sha256.Size || len(f.GetBuild()) > maxTextBytes {
			return nil, invalid("the fingerprint of router %.100q has a sum of %d bytes and a build of %d", req.GetServerId(), len(f.GetSum()), len(f.GetBuild()))
		}
		fingerprint = &statepb.Fingerprint{Index: f.GetIndex(), Sum: f.GetSum(), Build: f.GetBuild()}
	}
	members, err := r.Store.Membership()
	if err != nil {
		return nil, toWire(err)
	}
	if !slices.ContainsFunc(members.Servers, func(s raftstore.Server) bool { return s.ID == req.GetServerId() }) {
		return nil, fail(codes.FailedPrecondition, reasonConflict, "router %.100q is not a member of the cluster", req.GetServerId())
	}
	_, err = r.Controller.Propose(ctx, &statepb.Command{Kind: &statepb.Command_AnnounceRouter{AnnounceRouter: &statepb.AnnounceRouter{Router: &statepb.Router{
		ServerId: req.GetServerId(), LettersAddress: req.GetLettersAddress(), Version: req.GetVersion(), FeatureLevel: req.GetFeatureLevel(), LettersBytes: req.GetLettersBytes(),
		Fingerprint: fingerprint,
	}}}})
	if err != nil {
		return nil, toWire(err)
	}
	return &controlv1.AnnounceResponse{}, nil
}
