package sidecar_test

import (
	"testing"

	"github.com/conveyor-etl/conveyor/internal/rpc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/sidecar"
)

func TestRules_CoverEveryMethod(t *testing.T) {
	srv := rpc.NewServer(rpc.ServerConfig{})
	controlv1.RegisterSidecarDataPlaneServer(srv, controlv1.UnimplementedSidecarDataPlaneServer{})
	if err := sidecar.CheckRules(srv); err != nil {
		t.Error(err)
	}
}
