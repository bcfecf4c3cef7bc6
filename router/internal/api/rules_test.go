package api_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/rpc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/router/internal/api"
)

func TestRules_CoverEveryMethodThatARouterAnswers(t *testing.T) {
	srv := rpc.NewServer(rpc.ServerConfig{})
	defer srv.Stop()
	api.Register(srv, api.Config{RaftService: controlv1.UnimplementedRaftServiceServer{}})
	if err := api.Rules.Check(srv); err != nil {
		t.Error(err)
	}
	if services := slices.Sorted(maps.Keys(srv.GetServiceInfo())); len(services) != len(callers) {
		t.Errorf("services %v: say below for whom a new one is", services)
	}
}

// callers say for whom each service is; methods may differ where the test below says so.
var callers = map[string][]certs.Role{
	controlv1.AdminService_ServiceDesc.ServiceName:       {certs.RoleAdmin, certs.RoleOperator},
	controlv1.DeadLetterService_ServiceDesc.ServiceName:  {certs.RoleAdmin, certs.RoleOperator},
	controlv1.ServiceRegistry_ServiceDesc.ServiceName:    {certs.RoleAdmin, certs.RoleOperator},
	controlv1.SidecarCoordinator_ServiceDesc.ServiceName: {certs.RoleSidecar},
	controlv1.RaftService_ServiceDesc.ServiceName:        {certs.RoleRouter},
	controlv1.RouterService_ServiceDesc.ServiceName:      {certs.RoleRouter},
	"grpc.health.v1.Health":                              {certs.RoleAdmin, certs.RoleOperator, certs.RoleRouter, certs.RoleSidecar},
}

func TestRules_EachServiceIsForItsCallers(t *testing.T) {
	for method, rule := range api.Rules {
		want := slices.Clone(callers[strings.Split(method, "/")[1]])
		if method == controlv1.AdminService_GetCluster_FullMethodName {
			want = append(want, certs.RoleRouter) // the leader asks the others
		}
		if !slices.Equal(rule, want) {
			t.Errorf("%s is for %v, want %v", method, rule, want)
		}
	}
}

func TestRules_AForgottenMethodIsNoticed(t *testing.T) {
	rules := maps.Clone(api.Rules)
	delete(rules, controlv1.AdminService_Apply_FullMethodName)
	srv := grpc.NewServer()
	api.Register(srv, api.Config{RaftService: controlv1.UnimplementedRaftServiceServer{}})
	if err := rules.Check(srv); err == nil || !strings.Contains(err.Error(), controlv1.AdminService_Apply_FullMethodName) {
		t.Errorf("Check = %v", err)
	}
}
