package client

import (
	"context"
	"fmt"
	"iter"

	"google.golang.org/grpc"

	"github.com/conveyor-etl/conveyor/dsl"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// Action is what Apply did to a resource.
type Action string

// The actions of Apply.
const (
	Created    Action = "created"
	Configured Action = "configured"
	Unchanged  Action = "unchanged"
)

var actions = map[controlv1.ApplyAction]Action{
	controlv1.ApplyAction_APPLY_ACTION_CREATED:    Created,
	controlv1.ApplyAction_APPLY_ACTION_CONFIGURED: Configured,
	controlv1.ApplyAction_APPLY_ACTION_UNCHANGED:  Unchanged,
}

// Applied is the outcome of Apply for one resource.
type Applied struct {
	// Resource as the router keeps it now.
	Resource *controlv1.Resource
	// Action that was taken, or would be in a dry run.
	Action Action
	// Warnings are for people; the resource was taken all the same.
	Warnings []string
}

// ApplyOptions change what Apply does. The zero value applies for the owner "cli".
type ApplyOptions struct {
	// Owner on whose behalf; empty means "cli".
	Owner string
	// TakeOver resources of another owner.
	TakeOver bool
	// DryRun validates and tells what would change.
	DryRun bool
}

// Apply creates or changes resources, all or none, and returns what became of each, in order. After a lost reply it is repeated, and applied once all the same.
func (c *Client) Apply(ctx context.Context, resources []*dsl.Resource, opts ApplyOptions) ([]Applied, error) {
	req := &controlv1.ApplyRequest{Owner: opts.Owner, TakeOver: opts.TakeOver, DryRun: opts.DryRun}
	for _, r := range resources {
		m, err := r.CanonicalJSON()
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", r, err)
		}
		req.Manifests = append(req.Manifests, m)
	}
	apply := func(ctx context.Context, conn grpc.ClientConnInterface, command *controlv1.Command) (*controlv1.ApplyResponse, error) {
		req.Command = command
		return controlv1.NewAdminServiceClient(conn).Apply(ctx, req)
	}
	var resp *controlv1.ApplyResponse
	var err error
	if opts.DryRun {
		resp, err = call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.ApplyResponse, error) {
			return apply(ctx, conn, nil)
		})
	} else {
		resp, err = change(ctx, c, apply)
	}
	if err != nil {
		return nil, fmt.Errorf("apply: %w", err)
	}
	out := make([]Applied, len(resp.GetResults()))
	for i, r := range resp.GetResults() {
		out[i] = Applied{Resource: r.GetResource(), Action: actions[r.GetAction()], Warnings: r.GetWarnings()}
	}
	return out, nil
}

// Get returns one resource; an error that matches ErrNotFound when there is none.
func (c *Client) Get(ctx context.Context, kind, namespace, name string) (*controlv1.Resource, error) {
	req := &controlv1.GetResourceRequest{Ref: &controlv1.ResourceRef{Kind: kind, Namespace: namespace, Name: name}, Stale: c.opts.staleReads()}
	resp, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.GetResourceResponse, error) {
		return controlv1.NewAdminServiceClient(conn).GetResource(ctx, req)
	})
	if err != nil {
		return nil, fmt.Errorf("get %s %s/%s: %w", kind, namespace, name, err)
	}
	c.opts.tell(resp.GetStaleness())
	return resp.GetResource(), nil
}

// List returns the resources of a kind, and the revision that was read, at which a Watch may begin. An empty namespace lists all.
func (c *Client) List(ctx context.Context, kind, namespace string) ([]*controlv1.Resource, uint64, error) {
	req := &controlv1.ListResourcesRequest{Kind: kind, Namespace: namespace, Stale: c.opts.staleReads()}
	resp, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.ListResourcesResponse, error) {
		return controlv1.NewAdminServiceClient(conn).ListResources(ctx, req)
	})
	if err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", kind, err)
	}
	c.opts.tell(resp.GetStaleness())
	return resp.GetResources(), resp.GetRevision(), nil
}

// Event is one change of a resource.
type Event struct {
	// Revision of the change. Resources that one Apply changed have it in common.
	Revision uint64
	// ResumeAfter is where another Watch may begin and miss nothing: it begins with the first change of this Revision.
	ResumeAfter uint64
	// Resource after the change, or what it was when it is Deleted.
	Resource *controlv1.Resource
	Deleted  bool
}

// Watch yields the changes of a kind after a revision, each once and in order. It resumes by itself after a break and ends when ctx ends, when the caller stops,
// or with an error that is the last thing it yields: one that matches ErrRevisionCompacted asks to List again.
func (c *Client) Watch(ctx context.Context, kind, namespace string, after uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		at, stopped := watchState{complete: after}, false // a second use of the sequence begins again
		err := follow(ctx, c, true, func(ctx context.Context, conn grpc.ClientConnInterface) (grpc.ServerStreamingClient[controlv1.WatchResourcesResponse], error) {
			return controlv1.NewAdminServiceClient(conn).WatchResources(ctx, &controlv1.WatchResourcesRequest{Kind: kind, Namespace: namespace, AfterRevision: at.complete})
		}, func(m *controlv1.WatchResourcesResponse) bool {
			if !at.take(m) {
				return true
			}
			stopped = !yield(Event{Revision: m.GetRevision(), ResumeAfter: at.complete, Resource: m.GetResource(), Deleted: m.GetDeleted()}, nil)
			return !stopped
		})
		if err != nil && !stopped {
			yield(Event{}, fmt.Errorf("watch %s: %w", kind, err))
		}
	}
}

// Delete removes a resource. It returns when the router has taken note; a pipeline is gone only after its drain, which Get shows by ErrNotFound.
func (c *Client) Delete(ctx context.Context, kind, namespace, name string) error {
	req := &controlv1.DeleteResourceRequest{Ref: &controlv1.ResourceRef{Kind: kind, Namespace: namespace, Name: name}}
	_, err := change(ctx, c, func(ctx context.Context, conn grpc.ClientConnInterface, command *controlv1.Command) (*controlv1.DeleteResourceResponse, error) {
		req.Command = command
		return controlv1.NewAdminServiceClient(conn).DeleteResource(ctx, req)
	})
	if err != nil {
		return fmt.Errorf("delete %s %s/%s: %w", kind, namespace, name, err)
	}
	return nil
}

// PipelineStatus returns what a pipeline does now.
func (c *Client) PipelineStatus(ctx context.Context, namespace, name string) (*controlv1.PipelineStatus, error) {
	req := &controlv1.GetPipelineStatusRequest{Namespace: namespace, Name: name, Stale: c.opts.staleReads()}
	resp, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.GetPipelineStatusResponse, error) {
		return controlv1.NewAdminServiceClient(conn).GetPipelineStatus(ctx, req)
	})
	if err != nil {
		return nil, fmt.Errorf("get the status of pipeline %s/%s: %w", namespace, name, err)
	}
	c.opts.tell(resp.GetStaleness())
	return resp.GetStatus(), nil
}

// RestartPipeline lets a completed pipeline read on, or with fromStart makes one begin anew. After a lost reply it is repeated, and done once all the same.
func (c *Client) RestartPipeline(ctx context.Context, namespace, name string, fromStart bool) error {
	req := &controlv1.RestartPipelineRequest{Namespace: namespace, Name: name, FromStart: fromStart}
	_, err := change(ctx, c, func(ctx context.Context, conn grpc.ClientConnInterface, command *controlv1.Command) (*controlv1.RestartPipelineResponse, error) {
		req.Command = command
		return controlv1.NewAdminServiceClient(conn).RestartPipeline(ctx, req)
	})
	if err != nil {
		return fmt.Errorf("restart pipeline %s/%s: %w", namespace, name, err)
	}
	return nil
}

// Sidecars returns the live sessions.
func (c *Client) Sidecars(ctx context.Context) ([]*controlv1.Sidecar, error) {
	resp, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.ListSidecarsResponse, error) {
		return controlv1.NewAdminServiceClient(conn).ListSidecars(ctx, &controlv1.ListSidecarsRequest{Stale: c.opts.staleReads()})
	})
	if err != nil {
		return nil, fmt.Errorf("list sidecars: %w", err)
	}
	c.opts.tell(resp.GetStaleness())
	return resp.GetSidecars(), nil
}
