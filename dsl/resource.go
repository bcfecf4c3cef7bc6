package dsl

import (
	"encoding/json"
	"strings"
)

// APIVersion is the only apiVersion that this build reads.
const APIVersion = "conveyor.etl/v1"

// The kinds of manifest.
const (
	KindSource    = "Source"
	KindTransform = "Transform"
	KindSink      = "Sink"
	KindPipeline  = "Pipeline"
	KindCluster   = "ConveyorCluster"
)

// DefaultNamespace is the namespace of a manifest that names none.
const DefaultNamespace = "default"

// Kinds lists every kind in the order in which references must be applied: what is referred to comes first.
func Kinds() []string {
	return []string{KindCluster, KindSource, KindTransform, KindSink, KindPipeline}
}

// IsServiceKind reports whether kind is Source, Transform or Sink, the kinds whose spec is a *ServiceSpec.
func IsServiceKind(kind string) bool {
	return kind == KindSource || kind == KindTransform || kind == KindSink
}

// Resource is one manifest. A Resource that Parse or FromJSON returned is defaulted and valid by itself; Validate and Compile check what it refers to.
// A Resource is not changed by this package after it was returned and may be read by several goroutines.
type Resource struct {
	// APIVersion is always conveyor.etl/v1.
	APIVersion string `json:"apiVersion"`
	// Kind is Source, Transform, Sink, Pipeline or ConveyorCluster.
	Kind string `json:"kind"`
	// Metadata names the resource.
	Metadata Metadata `json:"metadata"`
	// Spec is a *ServiceSpec, *PipelineSpec or *ClusterSpec, as Kind says. It is never nil in a valid resource.
	Spec Spec `json:"spec"`

	place *place
	// faulty says that the manifest has an error, so that only Validate may see it.
	faulty bool
}

// Metadata names a resource and carries what users attach to it.
type Metadata struct {
	// Name is unique among the resources of one kind in a namespace: a DNS-1123 label of at most 63 characters.
	Name string `json:"name"`
	// Namespace holds the resource; "default" when the manifest names none.
	Namespace string `json:"namespace,omitempty"`
	// Labels are short values to select resources by.
	Labels map[string]string `json:"labels,omitempty"`
	// Annotations are values of any length that Conveyor keeps and does not read.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Spec is the part of a manifest that its kind decides: *ServiceSpec, *PipelineSpec or *ClusterSpec.
type Spec interface {
	setDefaults(kind string)
}

// Ref is the resource's namespace and name, joined by a slash.
func (r *Resource) Ref() string { return r.Metadata.Namespace + "/" + r.Metadata.Name }

// String is the kind in lower case with namespace and name, such as "source default/orders".
func (r *Resource) String() string { return strings.ToLower(r.Kind) + " " + r.Ref() }

// Service is the spec of a Source, Transform or Sink, and nil for other kinds.
func (r *Resource) Service() *ServiceSpec {
	s, _ := r.Spec.(*ServiceSpec)
	return s
}

// Pipeline is the spec of a Pipeline, and nil for other kinds.
func (r *Resource) Pipeline() *PipelineSpec {
	s, _ := r.Spec.(*PipelineSpec)
	return s
}

// Cluster is the spec of a ConveyorCluster, and nil for other kinds.
func (r *Resource) Cluster() *ClusterSpec {
	s, _ := r.Spec.(*ClusterSpec)
	return s
}

// ClusterSpec is the spec of a ConveyorCluster. It is read and checked everywhere; only the Kubernetes operator acts on it.
type ClusterSpec struct {
	// Replicas is the number of routers: 1, 3 or 5. The default is 1.
	Replicas *int `json:"replicas,omitempty"`
	// Image is the container image of the routers.
	Image string `json:"image,omitempty"`
}

// ServiceSpec is the spec of a Source, Transform or Sink: exactly one of GRPC, Connector or, in a Transform, CEL.
type ServiceSpec struct {
	// GRPC names a service of the user's by its address.
	GRPC *GRPCSpec `json:"grpc,omitempty"`
	// Connector names one of the ready-made services.
	Connector *ConnectorSpec `json:"connector,omitempty"`
	// CEL is a built-in transform: a filter or a map in the Common Expression Language.
	CEL *CELSpec `json:"cel,omitempty"`
	// Config is handed to a grpc service when a stream to it opens. Any JSON object.
	Config json.RawMessage `json:"config,omitempty"`
}

// GRPCSpec says where a gRPC service listens.
type GRPCSpec struct {
	// Endpoint is host:port. "localhost" means the host of the sidecar that dials.
	Endpoint string `json:"endpoint"`
}

// ConnectorSpec picks a connector and configures it.
type ConnectorSpec struct {
	// Type is the connector's name, such as "file".
	Type string `json:"type"`
	// Config is checked against the connector's own schema when the stage opens. Any JSON object.
	Config json.RawMessage `json:"config,omitempty"`
}

// CELSpec is a built-in transform: exactly one of Filter and Map.
type CELSpec struct {
	// Filter keeps the records for which the expression is true.
	Filter string `json:"filter,omitempty"`
	// Map replaces the payload by the expression's result as JSON.
	Map string `json:"map,omitempty"`
}
