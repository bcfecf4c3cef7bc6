package state

import (
	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// kindPipeline is the only kind that the state treats apart.
const kindPipeline = "Pipeline"

func (m *Machine) putResources(index uint64, at int64, c *statepb.PutResources) *RejectedError {
	for _, p := range c.GetResources() {
		key := ResourceKey{p.GetKind(), p.GetNamespace(), p.GetName()}
		if m.resources[key].GetRevision() != p.GetExpectedRevision() {
			return reject(Conflict, "%s %s/%s was changed by somebody else meanwhile", key.Kind, key.Namespace, key.Name)
		}
	}
	for _, p := range c.GetResources() {
		key := ResourceKey{p.GetKind(), p.GetNamespace(), p.GetName()}
		r := &statepb.Resource{Kind: key.Kind, Namespace: key.Namespace, Name: key.Name, Uid: p.GetUid(), CreatedAtUnixNano: at, Generation: 1}
		if old := m.resources[key]; old != nil {
			r = proto.CloneOf(old)
			if p.GetSpecChanged() {
				r.Generation++
			}
		}
		r.Owner, r.Manifest, r.Revision, r.UpdatedAtUnixNano = p.GetOwner(), p.GetManifest(), index, at
		m.resources[key] = r
		m.events.add(Event{Revision: index, Resource: r})
	}
	return nil
}

func (m *Machine) deleteResource(index uint64, c *statepb.DeleteResource) *RejectedError {
	key := ResourceKey{c.GetKind(), c.GetNamespace(), c.GetName()}
	r := m.resources[key]
	if r == nil {
		return reject(NotFound, "there is no %s %s/%s", key.Kind, key.Namespace, key.Name)
	}
	delete(m.resources, key)
	m.events.add(Event{Revision: index, Resource: r, Deleted: true})
	name := key.Namespace + "/" + key.Name
	if p := m.pipelines[name]; key.Kind == kindPipeline && p != nil {
		p = proto.CloneOf(p)
		p.Draining, p.Deleting, p.BeginAnew = true, true, false
		m.pipelines[name] = p
		m.settle(name)
	}
	return nil
}
