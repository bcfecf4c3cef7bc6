// Package view is what the control plane keeps, in the shape in which it is printed: names in lower camel case, phases in words.
package view

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/conveyor-etl/conveyor/dsl"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// Object is one thing with a name.
type Object struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   Metadata        `json:"metadata"`
	Spec       json.RawMessage `json:"spec,omitempty"`
	// Status is a *PipelineStatus or a *SidecarStatus.
	Status any `json:"status,omitempty"`
}

// Metadata names an object; behind the names is what the router adds.
type Metadata struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	UID         string            `json:"uid,omitempty"`
	Generation  uint64            `json:"generation,omitempty"`
	Revision    uint64            `json:"revision,omitempty"`
	Owner       string            `json:"owner,omitempty"`
	CreatedAt   *time.Time        `json:"createdAt,omitempty"`
	UpdatedAt   *time.Time        `json:"updatedAt,omitempty"`
}

// TypeName is the kind in lower case and the name, joined by a slash.
func (o *Object) TypeName() string { return strings.ToLower(o.Kind) + "/" + o.Metadata.Name }

// Created is when the object was made; the zero time when nobody knows.
func (o *Object) Created() time.Time {
	if o.Metadata.CreatedAt == nil {
		return time.Time{}
	}
	return *o.Metadata.CreatedAt
}

// Manifest is the object without what the router added: what a user could apply.
func (o *Object) Manifest() *Object {
	return &Object{
		APIVersion: o.APIVersion, Kind: o.Kind, Spec: o.Spec,
		Metadata: Metadata{Name: o.Metadata.Name, Namespace: o.Metadata.Namespace, Labels: o.Metadata.Labels, Annotations: o.Metadata.Annotations},
	}
}

// List is objects of one kind, or of several, whose kind is then "List".
type List[T any] struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Items      []T    `json:"items"`
}

// NewList is a list of objects of a kind; it is never null.
func NewList[T any](kind string, items []T) List[T] {
	if items == nil {
		items = []T{}
	}
	return List[T]{APIVersion: dsl.APIVersion, Kind: kind + "List", Items: items}
}

// Resource shows a manifest as the router keeps it.
func Resource(r *controlv1.Resource) (*Object, error) {
	var o Object
	if err := json.Unmarshal(r.GetManifest(), &o); err != nil {
		return nil, fmt.Errorf("read the manifest of %s %s/%s: %w", r.GetKind(), r.GetNamespace(), r.GetName(), err)
	}
	o.APIVersion, o.Kind = dsl.APIVersion, r.GetKind()
	m := &o.Metadata
	m.Name, m.Namespace = r.GetName(), r.GetNamespace()
	m.UID, m.Generation, m.Revision, m.Owner = r.GetUid(), r.GetGeneration(), r.GetRevision(), r.GetOwner()
	m.CreatedAt, m.UpdatedAt = moment(r.GetCreatedAt()), moment(r.GetUpdatedAt())
	return &o, nil
}

func moment(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime()
	return &at
}
