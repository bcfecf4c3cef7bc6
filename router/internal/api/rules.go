package api

import (
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/conveyor-etl/conveyor/internal/auth"
	"github.com/conveyor-etl/conveyor/internal/certs"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

var (
	people   = []certs.Role{certs.RoleAdmin, certs.RoleOperator}
	routing  = []certs.Role{certs.RoleRouter}
	sidecars = []certs.Role{certs.RoleSidecar}
	everyone = []certs.Role{certs.RoleAdmin, certs.RoleOperator, certs.RoleRouter, certs.RoleSidecar}
)

// Rules say who may call which method of a router.
var Rules = auth.Table{
	controlv1.AdminService_Apply_FullMethodName:              people,
	controlv1.AdminService_GetResource_FullMethodName:        people,
	controlv1.AdminService_ListResources_FullMethodName:      people,
	controlv1.AdminService_WatchResources_FullMethodName:     people,
	controlv1.AdminService_DeleteResource_FullMethodName:     people,
	controlv1.AdminService_GetPipelineStatus_FullMethodName:  people,
	controlv1.AdminService_RestartPipeline_FullMethodName:    people,
	controlv1.AdminService_ListSidecars_FullMethodName:       people,
	controlv1.AdminService_OpenClientSession_FullMethodName:  people,
	controlv1.AdminService_EndClientSession_FullMethodName:   people,
	controlv1.AdminService_GetCluster_FullMethodName:         {certs.RoleAdmin, certs.RoleOperator, certs.RoleRouter},
	controlv1.AdminService_AddRouter_FullMethodName:          people,
	controlv1.AdminService_PromoteRouter_FullMethodName:      people,
	controlv1.AdminService_RemoveRouter_FullMethodName:       people,
	controlv1.AdminService_TransferLeadership_FullMethodName: people,

	controlv1.DeadLetterService_ListLetters_FullMethodName:    people,
	controlv1.DeadLetterService_GetLetter_FullMethodName:      people,
	controlv1.DeadLetterService_DiscardLetters_FullMethodName: people,
	controlv1.DeadLetterService_ReplayLetters_FullMethodName:  people,

	controlv1.SidecarCoordinator_Register_FullMethodName:               sidecars,
	controlv1.SidecarCoordinator_Heartbeat_FullMethodName:              sidecars,
	controlv1.SidecarCoordinator_ReportEndpoints_FullMethodName:        sidecars,
	controlv1.SidecarCoordinator_WatchAssignments_FullMethodName:       sidecars,
	controlv1.SidecarCoordinator_AcknowledgeAssignments_FullMethodName: sidecars,
	controlv1.SidecarCoordinator_ReadCheckpoints_FullMethodName:        sidecars,
	controlv1.SidecarCoordinator_ReportCheckpoints_FullMethodName:      sidecars,
	controlv1.SidecarCoordinator_StoreDeadLetters_FullMethodName:       sidecars,
	controlv1.SidecarCoordinator_Replays_FullMethodName:                sidecars,
	controlv1.SidecarCoordinator_Deregister_FullMethodName:             sidecars,

	controlv1.ServiceRegistry_RegisterService_FullMethodName:   people,
	controlv1.ServiceRegistry_RenewService_FullMethodName:      people,
	controlv1.ServiceRegistry_DeregisterService_FullMethodName: people,

	controlv1.RaftService_AppendEntries_FullMethodName:   routing,
	controlv1.RaftService_RequestVote_FullMethodName:     routing,
	controlv1.RaftService_RequestPreVote_FullMethodName:  routing,
	controlv1.RaftService_InstallSnapshot_FullMethodName: routing,
	controlv1.RaftService_TimeoutNow_FullMethodName:      routing,
	controlv1.RaftService_Probe_FullMethodName:           routing,

	controlv1.RouterService_Announce_FullMethodName: routing,

	healthpb.Health_Check_FullMethodName: everyone,
	healthpb.Health_List_FullMethodName:  everyone,
	healthpb.Health_Watch_FullMethodName: everyone,
}
