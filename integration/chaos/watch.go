package chaos

import (
	"cmp"
	"maps"
	"slices"
)

// Asked is a change that a client asked for and was not refused: either Values that are applied together, by the names of their resources, or a resource to be Deleted.
type Asked struct {
	Values  map[string]string
	Deleted string
	// Acknowledged is whether the client was told that it is made, and Revision the one that it made; the answer to a deletion has none.
	Acknowledged bool
	Revision     uint64
}

// Seen is a change of one resource that a watch told of.
type Seen struct {
	Revision, ResumeAfter uint64
	// Name and Value of the resource after the change, or when it was Deleted, and the revision that Made it so.
	Name, Value string
	Made        uint64
	Deleted     bool
}

// Watching is what one watch told of the changes behind a revision.
type Watching struct {
	After uint64
	Seen  []Seen
}

// JudgeWatch returns where a watch differs from what watches promise, given all that clients asked for. It has seen everything up to a revision, and what it saw beyond may end
// within a change.
//
// Changes come in the order of their revisions, none of a resource twice; all resources of one change come together, and have its revision; one that is deleted is told with what it
// was; nothing is missing that was acknowledged, and nothing comes that nobody asked for.
func JudgeWatch(asked []Asked, w Watching, through uint64) []string {
	var found problems
	w.judgeOrder(&found)
	w.judgeContents(&found)
	judgeChanges(&found, asked, w, through)
	return found.told
}

// JudgeAgain returns where a watch that began later, behind any revision, differs from one that has seen everything since an earlier one: it sees the same.
func JudgeAgain(first, again Watching) []string {
	var found problems
	again.judgeOrder(&found)
	at, _ := slices.BinarySearchFunc(first.Seen, again.After, func(s Seen, after uint64) int {
		if s.Revision > after {
			return 1
		}
		return -1
	})
	want := first.Seen[at:]
	for i := range min(len(want), len(again.Seen)) {
		got, want := again.Seen[i], want[i]
		got.ResumeAfter = want.ResumeAfter // which may differ in how much lies behind it
		if got != want {
			found.add("resumed", "as number %d behind revision %d it saw %+v, and the first saw %+v", i+1, again.After, got, want)
			break // what follows differs too
		}
	}
	return found.told
}

// judgeOrder looks at revisions only: also at where the next watch may begin, which is between the change and the one before it.
func (w Watching) judgeOrder(found *problems) {
	before, last := w.After, w.After // the revision before the present one, and that one
	names := map[string]bool{}
	for _, e := range w.Seen {
		switch {
		case e.Revision < last || e.Revision == w.After:
			found.add("ordered", "revision %d was seen after %d", e.Revision, last)
			continue
		case e.Revision > last:
			before, last = last, e.Revision
			clear(names)
		}
		if names[e.Name] {
			found.add("unique", "%s was seen twice at revision %d", e.Name, e.Revision)
		}
		names[e.Name] = true
		if e.ResumeAfter < before || e.ResumeAfter >= e.Revision {
			found.add("resumable", "the change of %s at revision %d says that another watch may begin after %d, and the one before is at %d", e.Name, e.Revision, e.ResumeAfter, before)
		}
	}
}

// judgeContents looks at what each resource is from change to change.
func (w Watching) judgeContents(found *problems) {
	now := map[string]Seen{}
	for _, e := range w.Seen {
		was, known := now[e.Name]
		switch {
		case !e.Deleted && e.Made != e.Revision:
			found.add("content", "%s changed at revision %d and says that revision %d made it", e.Name, e.Revision, e.Made)
		case e.Deleted && (!known || was.Deleted):
			found.add("deleted", "%s was deleted at revision %d and was not there", e.Name, e.Revision)
		case e.Deleted && (e.Value != was.Value || e.Made != was.Made):
			found.add("deleted", "%s was deleted at revision %d as %q of revision %d, and it was %q of revision %d", e.Name, e.Revision, e.Value, e.Made, was.Value, was.Made)
		}
		now[e.Name] = e
	}
}

// judgeChanges compares what was seen of each revision with what was asked for.
func judgeChanges(found *problems, asked []Asked, w Watching, through uint64) {
	byValue := map[[2]string]int{}
	wanted, acknowledged, deleted := map[string]int{}, map[string]int{}, map[string]int{} // deletions of each resource
	for i, a := range asked {
		for name, value := range a.Values {
			byValue[[2]string{name, value}] = i
		}
		if a.Deleted != "" {
			wanted[a.Deleted]++
			if a.Acknowledged {
				acknowledged[a.Deleted]++
			}
		}
	}
	revisions := map[uint64][]Seen{}
	for _, e := range w.Seen {
		if e.Revision <= through {
			revisions[e.Revision] = append(revisions[e.Revision], e)
		}
	}
	made := map[int]uint64{} // the revision of each change
	for _, revision := range slices.Sorted(maps.Keys(revisions)) {
		seen := revisions[revision]
		one := seen[0]
		if one.Deleted {
			deleted[one.Name]++
			if len(seen) > 1 {
				found.add("atomic", "with the deletion of %s at revision %d came %+v", one.Name, revision, seen[1:])
			}
			continue
		}
		i, ok := byValue[[2]string{one.Name, one.Value}]
		if !ok {
			found.add("invented", "%s became %q at revision %d, and nobody asked for that", one.Name, one.Value, revision)
			continue
		}
		if earlier, twice := made[i]; twice {
			found.add("unique", "%v was applied at revision %d and again at %d", asked[i].Values, earlier, revision)
		}
		made[i] = revision
		values := map[string]string{}
		for _, e := range seen {
			if e.Deleted {
				found.add("atomic", "with values at revision %d came the deletion of %s", revision, e.Name)
			}
			values[e.Name] = e.Value
		}
		if !maps.Equal(values, asked[i].Values) {
			found.add("atomic", "at revision %d it saw %v, and what was applied together is %v", revision, values, asked[i].Values)
		}
	}
	for i, a := range asked {
		if at, ok := made[i]; a.Acknowledged && a.Deleted == "" && (!ok || at != a.Revision) {
			found.add("reliable", "%v was acknowledged at revision %d, where it saw %v", a.Values, a.Revision, revisions[a.Revision])
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(wanted), cmp.Compare) {
		if deleted[name] < acknowledged[name] {
			found.add("reliable", "of %d acknowledged deletions of %s it saw %d", acknowledged[name], name, deleted[name])
		}
	}
	for name, n := range deleted {
		if n > wanted[name] {
			found.add("invented", "%s was deleted %d times, and that was asked for %d times", name, n, wanted[name])
		}
	}
}
