package api

import (
	"context"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"google.golang.org/grpc"
)

// registry refuses services that would register themselves.
type registry struct {
	controlv1.UnimplementedServiceRegistryServer
}

const selfRegistration = "registration of services by themselves (a sidecar beside a service finds it)"

// RegisterService implements controlv1.ServiceRegistryServer.
func (registry) RegisterService(context.Context, *controlv1.RegisterServiceRequest) (*controlv1.RegisterServiceResponse, error) {
	return nil, notAvailable(selfRegistration)
}

// RenewService implements controlv1.ServiceRegistryServer.
func (registry) RenewService(context.Context, *controlv1.RenewServiceRequest) (*controlv1.RenewServiceResponse, error) {
	return nil, notAvailable(selfRegistration)
}

// DeregisterService implements controlv1.ServiceRegistryServer.
func (registry) DeregisterService(context.Context, *controlv1.DeregisterServiceRequest) (*controlv1.DeregisterServiceResponse, error) {
	return nil, notAvailable(selfRegistration)
}

// raftService refuses other routers.
type raftService struct {
	controlv1.UnimplementedRaftServiceServer
}

const severalRouters = "a cluster of several routers"

// AppendEntries implements controlv1.RaftServiceServer.
func (raftService) AppendEntries(grpc.BidiStreamingServer[controlv1.AppendEntriesRequest, controlv1.AppendEntriesResponse]) error {
	return notAvailable(severalRouters)
}

// RequestVote implements controlv1.RaftServiceServer.
func (raftService) RequestVote(context.Context, *controlv1.RequestVoteRequest) (*controlv1.RequestVoteResponse, error) {
	return nil, notAvailable(severalRouters)
}

// RequestPreVote implements controlv1.RaftServiceServer.
func (raftService) RequestPreVote(context.Context, *controlv1.RequestPreVoteRequest) (*controlv1.RequestPreVoteResponse, error) {
	return nil, notAvailable(severalRouters)
}

// InstallSnapshot implements controlv1.RaftServiceServer.
func (raftService) InstallSnapshot(grpc.ClientStreamingServer[controlv1.InstallSnapshotRequest, controlv1.InstallSnapshotResponse]) error {
	return notAvailable(severalRouters)
}

// TimeoutNow implements controlv1.RaftServiceServer.
func (raftService) TimeoutNow(context.Context, *controlv1.TimeoutNowRequest) (*controlv1.TimeoutNowResponse, error) {
	return nil, notAvailable(severalRouters)
}

// Probe implements controlv1.RaftServiceServer.
func (raftService) Probe(context.Context, *controlv1.ProbeRequest) (*controlv1.ProbeResponse, error) {
	return nil, notAvailable(severalRouters)
}
