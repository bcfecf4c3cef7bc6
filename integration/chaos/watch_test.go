package chaos_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/integration/chaos"
)

// seenOf is a change that a watch told of as it should.
func seenOf(revision uint64, name, value string) chaos.Seen {
	return chaos.Seen{Revision: revision, ResumeAfter: revision - 1, Name: name, Value: value, Made: revision}
}

// goodWatch is what clients asked for and what a watch told of it, when all goes well: x and y are written together.
func goodWatch() (asked []chaos.Asked, w chaos.Watching) {
	deleted := seenOf(13, "x", "2")
	deleted.Made, deleted.Deleted = 12, true
	return []chaos.Asked{
		{Values: map[string]string{"a": "1"}, Acknowledged: true, Revision: 10},
		{Values: map[string]string{"x": "2", "y": "2"}, Acknowledged: true, Revision: 12},
		{Deleted: "x", Acknowledged: true},
		{Values: map[string]string{"x": "3", "y": "3"}}, // was made, and the answer lost
		{Values: map[string]string{"a": "4"}, Acknowledged: true, Revision: 17},
		{Values: map[string]string{"a": "5"}}, // was never made
		{Deleted: "y"},
	}, chaos.Watching{After: 5, Seen: []chaos.Seen{
		seenOf(10, "a", "1"), seenOf(12, "x", "2"), seenOf(12, "y", "2"), deleted, seenOf(15, "x", "3"), seenOf(15, "y", "3"), seenOf(17, "a", "4"),
	}}
}

func TestJudgeWatch_FindsWhatWentWrong(t *testing.T) {
	type history struct {
		asked []chaos.Asked
		chaos.Watching
	}
	for name, c := range map[string]struct {
		change func(h *history)
		want   string
	}{
		"nothing": {func(*history) {}, ""},
		"a change that is not complete behind what was waited for": {func(h *history) {
			h.asked = append(h.asked, chaos.Asked{Values: map[string]string{"x": "6", "y": "6"}})
			h.Seen = append(h.Seen, seenOf(20, "x", "6"))
		}, ""},
		"changes in another order":       {func(h *history) { h.Seen[0], h.Seen[6] = h.Seen[6], h.Seen[0] }, "ordered: revision 12 was seen after 17"},
		"a change before where it began": {func(h *history) { h.After = 10 }, "ordered: revision 10 "},
		"a change that comes twice":      {func(h *history) { h.Seen = slices.Insert(h.Seen, 1, h.Seen[1]) }, "unique: x was seen twice at revision 12"},
		"a change that is made twice":    {func(h *history) { h.Seen = slices.Insert(h.Seen, 6, seenOf(16, "a", "1")) }, "unique: map[a:1] was applied at revision 10 and again at 16"},
		"half of a change":               {func(h *history) { h.Seen = slices.Delete(h.Seen, 5, 6) }, "atomic: at revision 15 it saw map[x:3]"},
		"two changes of one revision": {func(h *history) {
			h.Seen[0] = seenOf(12, "a", "1")
			h.asked[0].Revision = 12
		}, "atomic: at revision 12 "},
		"a change in two revisions":   {func(h *history) { h.Seen[5] = seenOf(16, "y", "3") }, "atomic: at revision 15 it saw map[x:3]"},
		"something within a deletion": {func(h *history) { h.Seen[4] = seenOf(13, "z", "3") }, "atomic: with the deletion of x at revision 13"},
		"a deletion within a change": {func(h *history) {
			deletion, y := h.Seen[3], h.Seen[5]
			deletion.Revision, deletion.ResumeAfter = 15, 14
			h.Seen = slices.Replace(h.Seen, 3, 6, y, deletion)
		}, "atomic: with values at revision 15"},
		"an acknowledged change that is missing":     {func(h *history) { h.Seen = h.Seen[:6] }, "reliable: map[a:4] was acknowledged at revision 17"},
		"an acknowledged change at another revision": {func(h *history) { h.asked[4].Revision = 16 }, "reliable: map[a:4] was acknowledged at revision 16"},
		"an acknowledged deletion that is missing":   {func(h *history) { h.Seen = slices.Delete(h.Seen, 3, 4) }, "reliable: of 1 acknowledged deletions of x it saw 0"},
		"a value that nobody wrote":                  {func(h *history) { h.Seen[6].Value = "9" }, `invented: a became "9" at revision 17`},
		"a value that was refused":                   {func(h *history) { h.asked = slices.Delete(h.asked, 3, 4) }, `invented: x became "3" at revision 15`},
		"a deletion that nobody asked for": {func(h *history) {
			gone := chaos.Seen{Revision: 18, ResumeAfter: 17, Name: "a", Value: "4", Made: 17, Deleted: true}
			h.Seen = append(h.Seen, gone)
		}, "invented: a was deleted 1 times, and that was asked for 0 times"},
		"a deletion of what is not there":       {func(h *history) { h.Seen = slices.Delete(h.Seen, 1, 2) }, "deleted: x was deleted at revision 13 and was not there"},
		"a deletion with another value":         {func(h *history) { h.Seen[3].Value = "1" }, `deleted: x was deleted at revision 13 as "1" of revision 12`},
		"a deletion of an earlier life":         {func(h *history) { h.Seen[3].Made = 11 }, `deleted: x was deleted at revision 13 as "2" of revision 11`},
		"a deletion that is told as a change":   {func(h *history) { h.Seen[3].Deleted = false }, "content: x changed at revision 13 and says that revision 12 made it"},
		"a resource of another revision":        {func(h *history) { h.Seen[0].Made = 9 }, "content: a changed at revision 10 and says that revision 9 made it"},
		"a way back that leaves out the change": {func(h *history) { h.Seen[2].ResumeAfter = 12 }, "resumable: the change of y at revision 12"},
		"a way back into the change before":     {func(h *history) { h.Seen[4].ResumeAfter = 12 }, "resumable: the change of x at revision 15"},
	} {
		t.Run(name, func(t *testing.T) {
			var h history
			h.asked, h.Watching = goodWatch()
			c.change(&h)
			found := strings.Join(chaos.JudgeWatch(h.asked, h.Watching, 18), "\n")
			if c.want == "" && found != "" {
				t.Errorf("it finds %s", found)
			}
			if !strings.Contains(found, c.want) {
				t.Errorf("it finds %q, want %q", found, c.want)
			}
		})
	}
}

func TestJudgeAgain_SeesTheSameFromAnywhere(t *testing.T) {
	_, first := goodWatch()
	for after := first.After; after <= 18; after++ {
		again := chaos.Watching{After: after}
		for _, e := range first.Seen {
			if e.Revision > after {
				again.Seen = append(again.Seen, e)
			}
		}
		for n := range len(again.Seen) + 1 { // it may end anywhere
			if found := chaos.JudgeAgain(first, chaos.Watching{After: after, Seen: again.Seen[:n]}); len(found) > 0 {
				t.Errorf("behind revision %d, with %d changes, it finds %v", after, n, found)
			}
		}
		more := append(slices.Clone(again.Seen), seenOf(20, "a", "5"))
		if found := chaos.JudgeAgain(first, chaos.Watching{After: after, Seen: more}); len(found) > 0 {
			t.Errorf("behind revision %d, with a later change than the first saw, it finds %v", after, found)
		}
	}
}

func TestJudgeAgain_FindsWhatWentWrong(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *chaos.Watching)
		want   string
	}{
		"a change that is missing":             {func(w *chaos.Watching) { w.Seen = slices.Delete(w.Seen, 2, 3) }, "resumed: as number 3 behind revision 11"},
		"the first change is missing":          {func(w *chaos.Watching) { w.Seen = w.Seen[1:] }, "resumed: as number 1 behind revision 11"},
		"a change before where it began":       {func(w *chaos.Watching) { w.Seen = slices.Insert(w.Seen, 0, seenOf(10, "a", "1")) }, "ordered: revision 10 "},
		"the second half of the change before": {func(w *chaos.Watching) { w.After, w.Seen = 12, w.Seen[1:] }, "ordered: revision 12 "},
		"another value":                        {func(w *chaos.Watching) { w.Seen[4].Value = "9" }, "resumed: as number 5 "},
		"a change that comes twice":            {func(w *chaos.Watching) { w.Seen = slices.Insert(w.Seen, 0, w.Seen[0]) }, "unique: x was seen twice at revision 12"},
		"a change that the first did not see":  {func(w *chaos.Watching) { w.Seen = slices.Insert(w.Seen, 3, seenOf(14, "a", "3")) }, "resumed: as number 4 "},
	} {
		t.Run(name, func(t *testing.T) {
			_, first := goodWatch()
			again := chaos.Watching{After: 11, Seen: slices.Clone(first.Seen[1:])}
			c.change(&again)
			if found := strings.Join(chaos.JudgeAgain(first, again), "\n"); !strings.Contains(found, c.want) {
				t.Errorf("it finds %q, want %q", found, c.want)
			}
		})
	}
}
