package api

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/conveyor-etl/conveyor/dsl"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/control"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

type admin struct {
	controlv1.UnimplementedAdminServiceServer
	Config
}

func checkKind(kind string) error {
	if kind != dsl.KindPipeline && !dsl.IsServiceKind(kind) {
		return invalid("kind %q is not one of %s, %s, %s, %s", kind, dsl.KindSource, dsl.KindTransform, dsl.KindSink, dsl.KindPipeline)
	}
	return nil
}

func keyOf(ref *controlv1.ResourceRef) state.ResourceKey {
	key := state.ResourceKey{Kind: ref.GetKind(), Namespace: ref.GetNamespace(), Name: ref.GetName()}
	if key.Namespace == "" {
		key.Namespace = dsl.DefaultNamespace
	}
	return key
}

func toResource(r *statepb.Resource) *controlv1.Resource {
	return &controlv1.Resource{
		Kind: r.GetKind(), Namespace: r.GetNamespace(), Name: r.GetName(), Uid: r.GetUid(), Revision: r.GetRevision(), Generation: r.GetGeneration(),
		Owner: r.GetOwner(), Manifest: r.GetManifest(),
		CreatedAt: timestamppb.New(time.Unix(0, r.GetCreatedAtUnixNano())), UpdatedAt: timestamppb.New(time.Unix(0, r.GetUpdatedAtUnixNano())),
	}
}

// view is a linearizable reading of the state.
func (a *admin) view(ctx context.Context) (*state.View, error) {
	if err := a.Store.Read(ctx); err != nil {
		return nil, toWire(err)
	}
	return a.Machine.View(), nil
}

// viewOrStale is what this router knows by itself when the caller asks for that, with how old it may be, and a linearizable reading otherwise.
func (a *admin) viewOrStale(ctx context.Context, req interface{ GetStale() bool }) (*state.View, *controlv1.Staleness, error) {
	if !req.GetStale() {
		view, err := a.view(ctx)
		return view, nil, err
	}
	view, staleness := a.stale()
	if view.Index == 0 {
		// An empty list would look like an answer.
		return nil, nil, fail(codes.Unavailable, reasonNothingKnown, "router %s knows nothing yet: since its start it has not learned what of its log is committed", a.Store.ServerID())
	}
	return view, staleness, nil
}

// stale is what this router knows by itself, and how old that may be.
func (a *admin) stale() (*state.View, *controlv1.Staleness) {
	// Asked before the reading, so that this is no younger than it says.
	s := a.Store.StaleRead()
	view := a.Machine.View()
	return view, &controlv1.Staleness{
		ServerId: a.Store.ServerID(), AppliedIndex: view.Index, Known: s.Known, AgeMillis: uint64(s.Age.Milliseconds()),
	}
}

// notFound says that something is not there, or in a stale answer that it is not there as far as one router knows.
func notFound(kind string, key state.ResourceKey, s *controlv1.Staleness) error {
	switch {
	case s == nil:
		return fail(codes.NotFound, reasonNotFound, "there is no %s %s/%s", kind, key.Namespace, key.Name)
	case !s.GetKnown():
		return fail(codes.NotFound, reasonNotFound, "router %s by itself knows of no %s %s/%s, and the age of what it knows is not known", s.GetServerId(), kind, key.Namespace, key.Name)
	}
	age := time.Duration(s.GetAgeMillis()) * time.Millisecond
	return fail(codes.NotFound, reasonNotFound, "router %s by itself knows of no %s %s/%s; it had all that was committed %v ago", s.GetServerId(), kind, key.Namespace, key.Name, age)
}

// GetResource implements controlv1.AdminServiceServer.
func (a *admin) GetResource(ctx context.Context, req *controlv1.GetResourceRequest) (*controlv1.GetResourceResponse, error) {
	key := keyOf(req.GetRef())
	if err := checkKind(key.Kind); err != nil {
		return nil, err
	}
	view, staleness, err := a.viewOrStale(ctx, req)
	if err != nil {
		return nil, err
	}
	r := view.Resources[key]
	if r == nil {
		return nil, notFound(key.Kind, key, staleness)
	}
	return &controlv1.GetResourceResponse{Resource: toResource(r), Staleness: staleness}, nil
}

// ListResources implements controlv1.AdminServiceServer.
func (a *admin) ListResources(ctx context.Context, req *controlv1.ListResourcesRequest) (*controlv1.ListResourcesResponse, error) {
	if req.GetKind() != "" {
		if err := checkKind(req.GetKind()); err != nil {
			return nil, err
		}
	}
	view, staleness, err := a.viewOrStale(ctx, req)
	if err != nil {
		return nil, err
	}
	resp := &controlv1.ListResourcesResponse{Revision: view.Index, Staleness: staleness}
	for _, key := range slices.SortedFunc(maps.Keys(view.Resources), state.CompareResources) {
		if selects(req.GetKind(), req.GetNamespace(), key.Kind, key.Namespace) {
			resp.Resources = append(resp.Resources, toResource(view.Resources[key]))
		}
	}
	return resp, nil
}

// selects reports whether a filter, whose empty fields select all, takes a kind and namespace.
func selects(wantKind, wantNamespace, kind, namespace string) bool {
	return (wantKind == "" || wantKind == kind) && (wantNamespace == "" || wantNamespace == namespace)
}

// WatchResources implements controlv1.AdminServiceServer.
func (a *admin) WatchResources(req *controlv1.WatchResourcesRequest, stream grpc.ServerStreamingServer[controlv1.WatchResourcesResponse]) error {
	if req.GetKind() != "" {
		if err := checkKind(req.GetKind()); err != nil {
			return err
		}
	}
	ctx, cancel := a.streamContext(stream.Context())
	defer cancel()
	if err := a.Store.Read(ctx); err != nil {
		return toWire(err)
	}
	revision := req.GetAfterRevision()
	for ctx.Err() == nil {
		changed := a.Machine.Changed()
		events, through, err := a.Machine.EventsAfter(revision)
		if err != nil {
			return toWire(err)
		}
		if revision = through; len(events) == 0 {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		events = slices.DeleteFunc(events, func(e state.Event) bool {
			return !selects(req.GetKind(), req.GetNamespace(), e.Resource.GetKind(), e.Resource.GetNamespace())
		})
		if err := tell(stream, events); err != nil {
			return err
		}
	}
	return a.stopped(ctx)
}

// tell sends events, and a bookmark after the last of each revision: a stream can break between two of one revision.
func tell(stream grpc.ServerStreamingServer[controlv1.WatchResourcesResponse], events []state.Event) error {
	for i, e := range events {
		if err := stream.Send(&controlv1.WatchResourcesResponse{Revision: e.Revision, Resource: toResource(e.Resource), Deleted: e.Deleted}); err != nil {
			return err
		}
		if i+1 < len(events) && events[i+1].Revision == e.Revision {
			continue
		}
		if err := stream.Send(&controlv1.WatchResourcesResponse{Revision: e.Revision}); err != nil {
			return err
		}
	}
	return nil
}

// DeleteResource implements controlv1.AdminServiceServer.
func (a *admin) DeleteResource(ctx context.Context, req *controlv1.DeleteResourceRequest) (*controlv1.DeleteResourceResponse, error) {
	key := keyOf(req.GetRef())
	if err := checkKind(key.Kind); err != nil {
		return nil, err
	}
	d, err := a.decided(ctx, req.GetCommand())
	if err != nil {
		return nil, err
	}
	if d != nil {
		return &controlv1.DeleteResourceResponse{}, verdict(d)
	}
	d, err = a.propose(ctx, &statepb.Command{Client: client(req.GetCommand(), nil), Kind: &statepb.Command_DeleteResource{
		DeleteResource: &statepb.DeleteResource{Kind: key.Kind, Namespace: key.Namespace, Name: key.Name},
	}})
	if err != nil {
		return nil, toWire(err)
	}
	if d != nil {
		return &controlv1.DeleteResourceResponse{}, verdict(d)
	}
	return &controlv1.DeleteResourceResponse{}, nil
}

// GetPipelineStatus implements controlv1.AdminServiceServer.
func (a *admin) GetPipelineStatus(ctx context.Context, req *controlv1.GetPipelineStatusRequest) (*controlv1.GetPipelineStatusResponse, error) {
	_, staleness, err := a.viewOrStale(ctx, req)
	if err != nil {
		return nil, err
	}
	key := keyOf(&controlv1.ResourceRef{Namespace: req.GetNamespace(), Name: req.GetName()})
	s, ok := a.Controller.Status(key.Namespace, key.Name)
	if !ok {
		return nil, notFound(dsl.KindPipeline, key, staleness)
	}
	if staleness == nil && s.GetReportsUnknown() { // leadership ended since the state was read
		return nil, toWire(raftstore.ErrNotLeader)
	}
	return &controlv1.GetPipelineStatusResponse{Status: s, Staleness: staleness}, nil
}

// RestartPipeline implements controlv1.AdminServiceServer.
func (a *admin) RestartPipeline(ctx context.Context, req *controlv1.RestartPipelineRequest) (*controlv1.RestartPipelineResponse, error) {
	d, err := a.decided(ctx, req.GetCommand())
	if d == nil && err == nil {
		d, err = a.restart(ctx, req)
	}
	if err != nil {
		return nil, err
	}
	if d != nil {
		return &controlv1.RestartPipelineResponse{}, verdict(d)
	}
	return &controlv1.RestartPipelineResponse{}, nil
}

// restart returns how the restart was decided before, when it is a repeat.
func (a *admin) restart(ctx context.Context, req *controlv1.RestartPipelineRequest) (*state.Decided, error) {
	view, err := a.view(ctx)
	if err != nil {
		return nil, err
	}
	key := keyOf(&controlv1.ResourceRef{Kind: dsl.KindPipeline, Namespace: req.GetNamespace(), Name: req.GetName()})
	name := key.Namespace + "/" + key.Name
	if view.Resources[key] == nil {
		return a.refuse(ctx, req.GetCommand(), fail(codes.NotFound, reasonNotFound, "there is no %s %s", dsl.KindPipeline, name))
	}
	if view.Pipelines[name] == nil {
		// It has not begun, so that it will begin at the start by itself.
		return a.answer(ctx, req.GetCommand(), nil, nil)
	}
	d, err := a.propose(ctx, &statepb.Command{Client: client(req.GetCommand(), nil), Kind: &statepb.Command_RestartPipeline{
		RestartPipeline: &statepb.RestartPipeline{Pipeline: name, FromStart: req.GetFromStart()},
	}})
	return d, toWire(err)
}

// ListSidecars implements controlv1.AdminServiceServer.
func (a *admin) ListSidecars(ctx context.Context, req *controlv1.ListSidecarsRequest) (*controlv1.ListSidecarsResponse, error) {
	view, staleness, err := a.viewOrStale(ctx, req)
	if err != nil {
		return nil, err
	}
	stages := map[string]uint32{}
	for _, as := range view.Assignments {
		stages[as.GetSidecarId()]++
	}
	resp := &controlv1.ListSidecarsResponse{Staleness: staleness}
	for _, id := range state.SortedKeys(view.Sessions) {
		s := view.Sessions[id]
		resp.Sidecars = append(resp.Sidecars, &controlv1.Sidecar{
			Session: &controlv1.Session{SidecarId: id, Epoch: s.GetEpoch()}, Address: s.GetAddress(), HostName: s.GetHostName(), Version: s.GetVersion(),
			Endpoints: control.Endpoints(s), Stages: stages[id], RegisteredAt: timestamppb.New(time.Unix(0, s.GetRegisteredAtUnixNano())),
		})
	}
	return resp, nil
}
