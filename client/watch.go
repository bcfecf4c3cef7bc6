package client

import controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"

// watchState is how far a watch has come. A stream may break between two changes of one revision: the watch then goes on at the last revision that it knows to be
// complete, and leaves out what it has seen of the next.
type watchState struct {
	// complete is the revision up to which everything was told.
	complete uint64
	// seen are the resources of the revision behind it whose changes were told.
	seen map[resourceName]struct{}
}

type resourceName struct{ kind, namespace, name string }

// take notes a message and reports whether it is a change that was not told yet.
func (w *watchState) take(m *controlv1.WatchResourcesResponse) bool {
	r := m.GetResource()
	if r == nil {
		w.reach(m.GetRevision())
		return false
	}
	if m.GetRevision() <= w.complete {
		return false
	}
	// Revisions come in order, so those before are complete, also where the router does not say so.
	w.reach(m.GetRevision() - 1)
	name := resourceName{r.GetKind(), r.GetNamespace(), r.GetName()}
	if _, told := w.seen[name]; told {
		return false
	}
	if w.seen == nil {
		w.seen = map[resourceName]struct{}{}
	}
	w.seen[name] = struct{}{}
	return true
}

func (w *watchState) reach(revision uint64) {
	if revision > w.complete {
		w.complete, w.seen = revision, nil
	}
}
