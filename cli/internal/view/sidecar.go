package view

import (
	"fmt"
	"strings"
	"time"

	"github.com/conveyor-etl/conveyor/dsl"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// SidecarStatus is a live session.
type SidecarStatus struct {
	Address      string     `json:"address"`
	HostName     string     `json:"hostName"`
	Version      string     `json:"version"`
	Stages       uint32     `json:"stages"`
	Session      uint64     `json:"session"`
	RegisteredAt *time.Time `json:"registeredAt,omitempty"`
	Endpoints    []Endpoint `json:"endpoints"`
}

// Endpoint is a service beside a sidecar.
type Endpoint struct {
	Address   string    `json:"address"`
	Port      uint32    `json:"port"`
	Abilities []Ability `json:"abilities"`
}

// Ability is one thing that an endpoint offers.
type Ability struct {
	Kind    string `json:"kind"`
	Type    string `json:"type,omitempty"`
	Version string `json:"version,omitempty"`
}

// String is kind and type.
func (a Ability) String() string {
	if a.Type == "" {
		return a.Kind
	}
	return a.Kind + " " + a.Type
}

// Sidecar shows a session as an object.
func Sidecar(s *controlv1.Sidecar) *Object {
	st := &SidecarStatus{
		Address: s.GetAddress(), HostName: s.GetHostName(), Version: s.GetVersion(), Stages: s.GetStages(),
		Session: s.GetSession().GetEpoch(), RegisteredAt: moment(s.GetRegisteredAt()), Endpoints: []Endpoint{},
	}
	for _, e := range s.GetEndpoints() {
		v := Endpoint{Address: e.GetAddress(), Port: e.GetPort(), Abilities: []Ability{}}
		for _, a := range e.GetAbilities() {
			v.Abilities = append(v.Abilities, Ability{Kind: ServiceKind(a.GetKind()), Type: a.GetType(), Version: a.GetVersion()})
		}
		st.Endpoints = append(st.Endpoints, v)
	}
	return &Object{
		APIVersion: dsl.APIVersion, Kind: "Sidecar",
		Metadata: Metadata{Name: s.GetSession().GetSidecarId(), CreatedAt: st.RegisteredAt}, Status: st,
	}
}

// ServiceKind is the kind in lower case.
func ServiceKind(k conveyorv1.ServiceKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "SERVICE_KIND_"))
}

// Runs says in a few words what runs a service: "connector file", "grpc host:port", "cel filter".
func Runs(s *dsl.ServiceSpec) string {
	switch {
	case s == nil:
		return ""
	case s.GRPC != nil:
		return "grpc " + s.GRPC.Endpoint
	case s.Connector != nil:
		return "connector " + s.Connector.Type
	case s.CEL != nil && s.CEL.Filter != "":
		return "cel filter"
	case s.CEL != nil:
		return "cel map"
	}
	return ""
}

// Transport says how the bytes travel to a service.
func Transport(s *dsl.ServiceSpec) string {
	switch {
	case s == nil, s.CEL != nil:
		return "in the sidecar"
	default:
		return "plaintext"
	}
}

// Ref is namespace/name, or only the name in the given namespace.
func Ref(namespace, name, current string) string {
	if namespace == current {
		return name
	}
	return fmt.Sprintf("%s/%s", namespace, name)
}
