package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/dsl/expr"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

const (
	maxManifests     = 1000
	maxManifestBytes = 256 << 10
	maxApplyBytes    = 480 << 10 // of one command
	defaultOwner     = "cli"
	kubernetesOwner  = "kubernetes"
	// applyTries bounds how often Apply compares again after somebody else was faster.
	applyTries = 8
)

// manifest is one resource of an Apply.
type manifest struct {
	key      state.ResourceKey
	resource *dsl.Resource
	json     []byte
	warnings []string
}

// Apply implements controlv1.AdminServiceServer.
func (a *admin) Apply(ctx context.Context, req *controlv1.ApplyRequest) (*controlv1.ApplyResponse, error) {
	owner := req.GetOwner()
	if owner == "" {
		owner = defaultOwner
	}
	if owner != defaultOwner && owner != kubernetesOwner {
		return nil, invalid("owner %q is not one of %s, %s", owner, defaultOwner, kubernetesOwner)
	}
	manifests, err := parse(req.GetManifests())
	if err != nil {
		return nil, err
	}
	if d, err := a.decided(ctx, req.GetCommand()); err != nil || d != nil {
		return a.again(d, manifests, err)
	}
	resp, d, err := a.put(ctx, req, owner, manifests)
	if err != nil && !req.GetDryRun() {
		d, err = a.refuse(ctx, req.GetCommand(), err)
	}
	if err != nil || d != nil {
		return a.again(d, manifests, err)
	}
	return resp, nil
}

// put compares and makes the change, again when somebody else was faster. It returns how the change was decided before, when it is a repeat.
func (a *admin) put(ctx context.Context, req *controlv1.ApplyRequest, owner string, manifests []*manifest) (*controlv1.ApplyResponse, *state.Decided, error) {
	for try := 1; ; try++ {
		view, err := a.view(ctx)
		if err != nil {
			return nil, nil, err
		}
		if err := validate(view, manifests); err != nil {
			return nil, nil, err
		}
		resp, put, err := compare(view, manifests, owner, req.GetTakeOver())
		if err != nil || req.GetDryRun() {
			return resp, nil, err
		}
		if len(put.GetResources()) == 0 {
			d, err := a.answer(ctx, req.GetCommand(), actions(resp), nil)
			return resp, d, err
		}
		index, d, err := a.proposeAt(ctx, &statepb.Command{Client: client(req.GetCommand(), actions(resp)), Kind: &statepb.Command_PutResources{PutResources: put}})
		var rejection *state.RejectedError
		if errors.As(err, &rejection) && rejection.Reason == state.Conflict && try < applyTries {
			continue
		}
		if err != nil || d != nil {
			return nil, d, toWire(err)
		}
		return a.applied(resp, index), nil, nil
	}
}

// actions is what is kept of a response for a repeat: what was done to each resource. The rest can be made again.
func actions(resp *controlv1.ApplyResponse) *controlv1.ApplyResponse {
	out := &controlv1.ApplyResponse{}
	for _, r := range resp.GetResults() {
		out.Results = append(out.Results, &controlv1.ApplyResult{Action: r.GetAction()})
	}
	return out
}

// again answers a repeat of an Apply as it was decided, or passes the error on.
func (a *admin) again(d *state.Decided, manifests []*manifest, err error) (*controlv1.ApplyResponse, error) {
	if err == nil {
		err = verdict(d)
	}
	if err != nil {
		return nil, err
	}
	var kept controlv1.ApplyResponse
	resp := &controlv1.ApplyResponse{}
	_ = proto.Unmarshal(d.Reply, &kept) // written by actions
	for i, m := range manifests {
		result := &controlv1.ApplyResult{Resource: &controlv1.Resource{Kind: m.key.Kind, Namespace: m.key.Namespace, Name: m.key.Name, Manifest: m.json}}
		if i < len(kept.GetResults()) {
			result.Action = kept.GetResults()[i].GetAction()
		}
		resp.Results = append(resp.Results, result)
	}
	return a.applied(resp, d.Index), nil
}

// applied fills in what the command at an index made of the resources. What somebody else has changed or deleted since stays as this command had it.
func (a *admin) applied(resp *controlv1.ApplyResponse, index uint64) *controlv1.ApplyResponse {
	view := a.Machine.View()
	for _, r := range resp.GetResults() {
		now := view.Resources[keyOf(&controlv1.ResourceRef{Kind: r.Resource.GetKind(), Namespace: r.Resource.GetNamespace(), Name: r.Resource.GetName()})]
		switch changed := r.GetAction() != controlv1.ApplyAction_APPLY_ACTION_UNCHANGED; {
		case now != nil && now.GetRevision() <= index:
			r.Resource = toResource(now)
		case changed:
			r.Resource.Revision = index
		}
	}
	return resp
}

// faults collects what is wrong with the manifests.
type faults struct {
	violations []*errdetails.BadRequest_FieldViolation
}

func (f *faults) add(i int, code, path, message string) {
	field := fmt.Sprintf("manifests[%d]", i)
	if path != "" {
		field += "." + path
	}
	v := &errdetails.BadRequest_FieldViolation{Field: field, Reason: code, Description: message}
	if !slices.ContainsFunc(f.violations, func(o *errdetails.BadRequest_FieldViolation) bool {
		return o.GetField() == field && o.GetReason() == code && o.GetDescription() == message
	}) {
		f.violations = append(f.violations, v)
	}
}

func (f *faults) diagnostic(i int, d dsl.Diagnostic) {
	message := d.Message
	if d.Suggestion != "" {
		message += " (" + d.Suggestion + ")"
	}
	f.add(i, d.Code, d.Path, message)
}

func (f *faults) err() error {
	if len(f.violations) == 0 {
		return nil
	}
	return withDetails(status.Newf(codes.InvalidArgument, "the manifests have %d faults; nothing was applied", len(f.violations)),
		&errdetails.ErrorInfo{Reason: reasonInvalidManifest, Domain: domain}, &errdetails.BadRequest{FieldViolations: f.violations})
}

// parse reads each manifest by itself.
func parse(texts [][]byte) ([]*manifest, error) {
	if len(texts) == 0 {
		return nil, invalid("the request holds no manifests")
	}
	if len(texts) > maxManifests {
		return nil, fail(codes.ResourceExhausted, reasonLimitExceeded, "the request holds %d manifests, at most %d are applied at once", len(texts), maxManifests)
	}
	var out []*manifest
	var f faults
	seen := map[state.ResourceKey]int{}
	for i, text := range texts {
		if len(text) > maxManifestBytes {
			f.add(i, "", "", fmt.Sprintf("it has %d bytes, at most %d are kept", len(text), maxManifestBytes))
			continue
		}
		r, diags := dsl.FromJSON(text)
		for _, d := range diags {
			f.diagnostic(i, d)
		}
		if r == nil {
			continue
		}
		m := &manifest{resource: r, key: state.ResourceKey{Kind: r.Kind, Namespace: r.Metadata.Namespace, Name: r.Metadata.Name}}
		if r.Kind == dsl.KindCluster {
			f.add(i, "", "kind", "a ConveyorCluster is for the Kubernetes operator: a router does not keep it")
			continue
		}
		if first, twice := seen[m.key]; twice {
			f.add(i, "", "metadata.name", fmt.Sprintf("it is the same %s as manifests[%d]", r.Kind, first))
			continue
		}
		seen[m.key] = i
		var err error
		if m.json, err = r.CanonicalJSON(); err != nil {
			f.add(i, "", "", err.Error())
			continue
		}
		out = append(out, m)
	}
	return out, f.err()
}

// validate checks each manifest against those that it refers to, in the request or in the state. A service that is missing is a warning.
func validate(view *state.View, manifests []*manifest) error {
	var f faults
	known := map[state.ResourceKey]*dsl.Resource{}
	for _, m := range manifests {
		known[m.key] = m.resource
	}
	find := func(kind, namespace, name string) (*dsl.Resource, bool) {
		key := state.ResourceKey{Kind: kind, Namespace: namespace, Name: name}
		if r, ok := known[key]; ok {
			return r, r != nil
		}
		known[key], _ = dsl.FromJSON(view.Resources[key].GetManifest())
		return known[key], known[key] != nil
	}
	for i, m := range manifests {
		m.warnings = nil
		set := &dsl.Set{Resources: []*dsl.Resource{m.resource}}
		if m.resource.Kind == dsl.KindPipeline {
			// A name of another kind is part of the set too: it makes the better message.
			_, diags := dsl.Compile(func(kind, namespace, name string) (*dsl.Resource, bool) {
				for _, k := range []string{dsl.KindSource, dsl.KindTransform, dsl.KindSink} {
					if r, ok := find(k, namespace, name); ok && !slices.Contains(set.Resources, r) {
						set.Resources = append(set.Resources, r)
					}
				}
				return find(kind, namespace, name)
			}, m.resource)
			for _, d := range diags {
				if d.Severity == dsl.Error {
					f.diagnostic(i, d)
				}
			}
		}
		for _, d := range dsl.Validate(set, dsl.Options{MissingReference: dsl.Warning, CheckExpr: expr.Check}) {
			if d.Severity == dsl.Error {
				f.diagnostic(i, d)
			} else {
				m.warnings = append(m.warnings, d.Message)
			}
		}
	}
	return f.err()
}

// compare tells what applying would change, and makes the command that does.
func compare(view *state.View, manifests []*manifest, owner string, takeOver bool) (*controlv1.ApplyResponse, *statepb.PutResources, error) {
	resp, put := &controlv1.ApplyResponse{}, &statepb.PutResources{}
	size := 0
	for _, m := range manifests {
		old := view.Resources[m.key]
		result := &controlv1.ApplyResult{Action: controlv1.ApplyAction_APPLY_ACTION_UNCHANGED, Warnings: m.warnings}
		resp.Results = append(resp.Results, result)
		if old != nil && old.GetOwner() != owner && !takeOver {
			return nil, nil, fail(codes.FailedPrecondition, reasonOwnedByOther, "%s %s/%s belongs to %s: change it there, or take it over explicitly",
				m.key.Kind, m.key.Namespace, m.key.Name, old.GetOwner())
		}
		if old != nil && old.GetOwner() == owner && bytes.Equal(old.GetManifest(), m.json) {
			result.Resource = toResource(old)
			continue
		}
		change := &statepb.PutResource{
			Kind: m.key.Kind, Namespace: m.key.Namespace, Name: m.key.Name, Owner: owner, Manifest: m.json,
			ExpectedRevision: old.GetRevision(), SpecChanged: !bytes.Equal(specOf(old.GetManifest()), specOf(m.json)),
		}
		result.Action = controlv1.ApplyAction_APPLY_ACTION_CONFIGURED
		if old == nil {
			result.Action = controlv1.ApplyAction_APPLY_ACTION_CREATED
			change.Uid = rand.Text()
		}
		result.Resource = &controlv1.Resource{
			Kind: m.key.Kind, Namespace: m.key.Namespace, Name: m.key.Name, Owner: owner, Manifest: m.json,
			Uid: old.GetUid(), Revision: old.GetRevision(), Generation: old.GetGeneration(),
		}
		put.Resources = append(put.Resources, change)
		size += len(m.json) + len(m.key.Name) + len(m.key.Namespace) + 128
	}
	if size > maxApplyBytes {
		return nil, nil, fail(codes.ResourceExhausted, reasonLimitExceeded,
			"the changed manifests have %d bytes, at most %d are applied at once: apply them in parts", size, maxApplyBytes)
	}
	return resp, put, nil
}

func specOf(manifest []byte) []byte {
	var m struct {
		Spec json.RawMessage `json:"spec"`
	}
	if json.Unmarshal(manifest, &m) != nil {
		return nil
	}
	return m.Spec
}
