package client

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// Cluster returns who the routers are and how they do; the leader asks each of them.
func (c *Client) Cluster(ctx context.Context) (*controlv1.GetClusterResponse, error) {
	resp, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.GetClusterResponse, error) {
		return controlv1.NewAdminServiceClient(conn).GetCluster(ctx, &controlv1.GetClusterRequest{Stale: c.opts.staleReads()})
	})
	if err != nil {
		return nil, fmt.Errorf("get the cluster: %w", err)
	}
	c.opts.tell(resp.GetStaleness())
	return resp, nil
}

// AddRouter makes the router at an address, host:port, a learner of the cluster and returns it. It must run with an empty data directory. Adding one again changes
// nothing.
func (c *Client) AddRouter(ctx context.Context, address string) (*controlv1.ClusterServer, error) {
	resp, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.AddRouterResponse, error) {
		return controlv1.NewAdminServiceClient(conn).AddRouter(ctx, &controlv1.AddRouterRequest{Address: address})
	})
	if err != nil {
		return nil, fmt.Errorf("add router at %s: %w", address, err)
	}
	return resp.GetServer(), nil
}

// PromoteRouter gives a learner its vote. ErrLagging: it has not caught up yet.
func (c *Client) PromoteRouter(ctx context.Context, id string) error {
	_, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.PromoteRouterResponse, error) {
		return controlv1.NewAdminServiceClient(conn).PromoteRouter(ctx, &controlv1.PromoteRouterRequest{Id: id})
	})
	if err != nil {
		return fmt.Errorf("promote router %s: %w", id, err)
	}
	return nil
}

// RemoveRouter takes a router out of the cluster for good. Without force it is refused while those that would be left are no majority that answers.
func (c *Client) RemoveRouter(ctx context.Context, id string, force bool) error {
	tries := 0
	_, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.RemoveRouterResponse, error) {
		tries++
		resp, err := controlv1.NewAdminServiceClient(conn).RemoveRouter(ctx, &controlv1.RemoveRouterRequest{Id: id, Force: force})
		if tries > 1 && errors.Is(fromWire(err), ErrNotFound) {
			// The try before, whose answer was lost, removed it.
			return &controlv1.RemoveRouterResponse{}, nil
		}
		return resp, err
	})
	if err != nil {
		return fmt.Errorf("remove router %s: %w", id, err)
	}
	return nil
}

// TransferLeadership lets another voter lead, or with to = "" the one that is best up to date, and returns the id of the one that leads then.
func (c *Client) TransferLeadership(ctx context.Context, to string) (leader string, err error) {
	resp, err := call(ctx, c, whenUnsent, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.TransferLeadershipResponse, error) {
		return controlv1.NewAdminServiceClient(conn).TransferLeadership(ctx, &controlv1.TransferLeadershipRequest{To: to})
	})
	if err != nil {
		return "", fmt.Errorf("transfer leadership: %w", err)
	}
	return resp.GetLeaderId(), nil
}
