package chaos

import (
	"fmt"
	"strings"
)

// Expect is what a run must have been.
type Expect struct {
	// Keys of the source, and UID: namespace/name of its manifest.
	Keys int
	UID  string
	// Faults that were made. Without any, nothing may arrive twice.
	Faults int
	// MinRecords and MinFaults make a run worth anything.
	MinRecords, MinFaults int
}

// Report is what a run was.
type Report struct {
	// Records that the source emitted, Delivered with repeats, and Lost, which never arrived.
	Records, Delivered, Duplicates, Lost, Commits int
	// Problems are violations of what Conveyor promises; no more than a few of each kind.
	Problems []string
	// Invalid says why the run proves nothing; empty when it does.
	Invalid string
}

type checker struct {
	expect Expect
	report Report
	found  problems
	// first is where in the sink's ledger each record arrived first.
	first map[int]int64
}

// Check compares the ledgers of a run that has ended.
func Check(source, sink []byte, e Expect) Report {
	c := &checker{expect: e, first: map[int]int64{}}
	emits, commits, end := c.source(source)
	c.sink(sink, emits)
	c.settle(commits, end)
	r := c.report
	r.Records, r.Commits, r.Problems = end, len(commits), c.found.told
	switch {
	case end == 0:
		r.Invalid = "the source did not come to its end"
	case r.Records < e.MinRecords:
		r.Invalid = fmt.Sprintf("only %d records, want %d at least", r.Records, e.MinRecords)
	case e.Faults < e.MinFaults:
		r.Invalid = fmt.Sprintf("only %d faults, want %d at least", e.Faults, e.MinFaults)
	case r.Commits == 0:
		r.Invalid = "nothing was ever committed"
	}
	return r
}

type commit struct {
	seq  int
	size int64 // of the sink's ledger by then
}

// source reads what was emitted and committed, and at which record the source ended.
func (c *checker) source(content []byte) (emitted int, commits []commit, end int) {
	parse := func(text string) (kind string, seq int, size int64, ok bool) {
		var n int
		switch {
		case strings.HasPrefix(text, "emit "):
			n, _ = fmt.Sscanf(text, "emit %d", &seq)
			return "emit", seq, 0, n == 1
		case strings.HasPrefix(text, "end "):
			n, _ = fmt.Sscanf(text, "end %d", &seq)
			return "end", seq, 0, n == 1
		default:
			n, _ = fmt.Sscanf(text, "commit %d %d", &seq, &size)
			return "commit", seq, size, n == 2
		}
	}
	entries, err := readLedger(content, func(text string) bool { _, _, _, ok := parse(text); return ok })
	if err != nil {
		c.found.add("ledger of the source", "%v", err)
	}
	for _, e := range entries {
		switch kind, seq, size, _ := parse(e.text); kind {
		case "emit":
			emitted = max(emitted, seq)
		case "end":
			end = max(end, seq)
		case "commit":
			commits = append(commits, commit{seq, size})
		}
	}
	return emitted, commits, end
}

// sink reads what arrived.
func (c *checker) sink(content []byte, emitted int) {
	type got struct {
		seq     int
		print   uint32
		key, id string
	}
	parse := func(text string) (g got, ok bool) {
		n, err := fmt.Sscanf(text, "got %d %x %s %s", &g.seq, &g.print, &g.key, &g.id)
		return g, err == nil && n == 4
	}
	entries, err := readLedger(content, func(text string) bool { _, ok := parse(text); return ok })
	if err != nil {
		c.found.add("ledger of the sink", "%v", err)
	}
	last := map[string]int{}
	for _, e := range entries {
		g, _ := parse(e.text)
		c.report.Delivered++
		switch {
		case g.seq < 1 || g.seq > emitted:
			c.found.add("unknown", "record %d with id %s was never emitted", g.seq, g.id)
			continue
		case g.key != Key(g.seq, c.expect.Keys) || g.print != fingerprint([]byte(g.key), Payload(g.seq, c.expect.Keys)):
			c.found.add("corrupt", "record %d with key %s arrived with fingerprint %08x", g.seq, g.key, g.print)
		case g.id != fmt.Sprintf("%s//%d", c.expect.UID, g.seq):
			c.found.add("unknown id", "record %d has the id %s", g.seq, g.id)
		}
		if _, seen := c.first[g.seq]; seen {
			c.report.Duplicates++
			continue
		}
		c.first[g.seq] = e.end
		if g.seq < last[g.key] {
			c.found.add("disordered", "record %d of %s arrived first behind %d", g.seq, g.key, last[g.key])
		}
		last[g.key] = max(last[g.key], g.seq)
	}
}

// settle judges what is missing, and what was committed too early.
func (c *checker) settle(commits []commit, end int) {
	for seq := 1; seq <= end; seq++ {
		if _, ok := c.first[seq]; !ok {
			c.report.Lost++
			c.found.add("lost", "record %d never arrived", seq)
		}
	}
	// whole[n] is where the ledger of the sink had all of 1 to n.
	whole := make([]int64, end+1)
	for seq := 1; seq <= end; seq++ {
		at, ok := c.first[seq]
		if !ok {
			at = 1 << 62
		}
		whole[seq] = max(whole[seq-1], at)
	}
	for _, m := range commits {
		switch {
		case m.seq > end && end > 0:
			c.found.add("committed", "record %d was committed and never emitted", m.seq)
		case m.seq <= end && m.size < whole[m.seq]:
			c.found.add("committed", "record %d was committed when not everything up to it had arrived", m.seq)
		}
	}
	if n := len(commits); n > 0 && end > 0 && commits[n-1].seq != end {
		c.found.add("committed", "the last commit is of record %d, and the source ended with %d", commits[n-1].seq, end)
	}
	if c.expect.Faults == 0 && c.report.Duplicates > 0 {
		c.found.add("duplicates", "%d records arrived twice, and there was no fault", c.report.Duplicates)
	}
}
