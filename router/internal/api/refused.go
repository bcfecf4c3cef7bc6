package api

import (
	"context"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
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
