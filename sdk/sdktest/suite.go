package sdktest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/sdk"
)

// Suite is what a service is tried with.
type Suite struct {
	Sources    []SourceCase
	Transforms []TransformCase
	Sinks      []SinkCase
}

// SourceCase is a source and a config under which it has at least a few records.
type SourceCase struct {
	Type   string
	Config string
	// Records that the source has at least, under Config; 10 when it is 0.
	Records int
	// Ends says that the source is exhausted after exactly Records.
	Ends bool
}

// TransformCase is a transform, a config, and records that it takes.
type TransformCase struct {
	Type   string
	Config string
	Inputs []sdk.Record
	// Failing, if set, is a record with a key that fails under Config.
	Failing *sdk.Record
}

// SinkCase is a sink, a config, and records that it takes.
type SinkCase struct {
	Type   string
	Config string
	Inputs []sdk.Record
	// Failing, if set, is a record with a key that fails under Config.
	Failing *sdk.Record
}

// Run tries the service at addr, which speaks without TLS, with every rule that can be seen from outside: what it describes, openings,
// credit, ids, resumption, fencing, exact results, the order of keys, and how it refuses what is wrong.
func Run(t *testing.T, addr string, suite Suite) {
	t.Helper()
	c := Dial(t, addr)
	for _, tc := range suite.Sources {
		t.Run("source "+tc.Type, func(t *testing.T) { runSource(t, c, tc) })
	}
	for _, tc := range suite.Transforms {
		t.Run("transform "+tc.Type, func(t *testing.T) { runTransform(t, c, tc) })
	}
	for _, tc := range suite.Sinks {
		t.Run("sink "+tc.Type, func(t *testing.T) { runSink(t, c, tc) })
	}
}

func describe(t *testing.T, c *Conn, kind conveyorv1.ServiceKind, typ string) *conveyorv1.Ability {
	t.Helper()
	abilities := c.Describe(t, kind)
	i := slices.IndexFunc(abilities, func(a *conveyorv1.Ability) bool { return a.GetKind() == kind && a.GetType() == typ })
	if i < 0 {
		t.Fatalf("Describe does not tell of %s %q: %v", kind, typ, abilities)
	}
	return abilities[i]
}

// refusesBadConfig checks an open with a field that nobody has, and with something that is not an object.
func refusesBadConfig(t *testing.T, open func(config string) error) {
	t.Helper()
	err := open(`{"noSuchField": 1}`)
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(fmt.Sprint(err), "noSuchField") {
		t.Errorf("an unknown config field gave %v, want INVALID_ARGUMENT that names it", err)
	}
	if err := open(`[]`); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a config that is a list gave %v, want INVALID_ARGUMENT", err)
	}
}

func runSource(t *testing.T, c *Conn, tc SourceCase) {
	about := describe(t, c, conveyorv1.ServiceKind_SERVICE_KIND_SOURCE, tc.Type)
	records := tc.Records
	if records == 0 {
		records = 10
	}
	open := func(o Open) Open {
		o.Type, o.Config = tc.Type, tc.Config
		return o
	}
	t.Run("lists its partitions", func(t *testing.T) {
		names, err := c.Partitions(t, open(Open{}))
		if err != nil || len(names) == 0 || len(names) > 1 && !about.GetPartitions() {
			t.Errorf("partitions are %q, %v", names, err)
		}
	})
	t.Run("refuses a bad config", func(t *testing.T) {
		refusesBadConfig(t, func(config string) error {
			_, err := c.OpenSource(t, Open{Type: tc.Type, Config: config})
			return err
		})
	})
	if !about.GetReplayable() {
		t.Log("not replayable: its one reading is left to its own tests")
		return
	}
	t.Run("gives every record an id of its own, under its uid", func(t *testing.T) {
		p := c.MustOpenSource(t, open(Open{UID: "ns/uid"}))
		seen := map[string]bool{}
		for _, r := range p.Collect(records) {
			if !strings.HasPrefix(r.ID, "ns/uid/") || seen[r.ID] {
				t.Fatalf("id %q is not under the uid, or came twice", r.ID)
			}
			seen[r.ID] = true
		}
	})
	t.Run("keeps to its credit", func(t *testing.T) {
		p := c.MustOpenSource(t, open(Open{}))
		if !p.Quiet(50 * time.Millisecond) {
			t.Fatal("records came without credit")
		}
		p.Grant(3, 1<<20)
		for got := 0; got < 3; {
			e := p.Next()
			if e.Err != nil || e.End != nil {
				t.Fatalf("ended: %+v", e)
			}
			got += len(e.Records)
		}
		if !p.Quiet(50 * time.Millisecond) {
			t.Fatal("more records came than there was credit for")
		}
	})
	t.Run("resumes behind any position with the same records", func(t *testing.T) { resumes(t, c, open, records) })
	t.Run("confirms a commit", func(t *testing.T) {
		p := c.MustOpenSource(t, open(Open{}))
		all := p.Collect(3)
		if at := all[2].Position; len(at) > 0 {
			p.Commit(at)
			p.Commit(at)
		}
	})
	t.Run("stops when asked", func(t *testing.T) {
		p := c.MustOpenSource(t, open(Open{}))
		all := p.Collect(2)
		if end, _ := p.Stop(); end.GetExhausted() && !tc.Ends {
			t.Error("a stopped source says that it is exhausted")
		}
		p.Commit(all[0].Position)
		if err := p.Hangup(); err != nil {
			t.Errorf("the stream ended with %v", err)
		}
	})
	if tc.Ends {
		t.Run("ends", func(t *testing.T) {
			p := c.MustOpenSource(t, open(Open{}))
			all, _, end := p.Drain()
			if len(all) != records || !end.GetExhausted() {
				t.Errorf("ended after %d records, exhausted %v; want %d, true", len(all), end.GetExhausted(), records)
			}
		})
	}
	if about.GetFences() {
		t.Run("a newer owner fences an older one", func(t *testing.T) { fences(t, c, open) })
	}
}

func resumes(t *testing.T, c *Conn, open func(Open) Open, records int) {
	t.Helper()
	all := c.MustOpenSource(t, open(Open{})).Collect(records)
	for i := range all[:len(all)-1] {
		if len(all[i].Position) == 0 || i > 5 && i < len(all)-3 {
			continue
		}
		p := c.MustOpenSource(t, open(Open{Position: all[i].Position}))
		rest := p.Collect(min(3, len(all)-i-1))
		for j, r := range rest {
			want := all[i+1+j]
			if r.ID != want.ID || string(r.Payload) != string(want.Payload) || string(r.Key) != string(want.Key) {
				t.Fatalf("behind record %d came %q %q, want %q %q", i, r.ID, r.Payload, want.ID, want.Payload)
			}
		}
		p.Close()
	}
}

func fences(t *testing.T, c *Conn, open func(Open) Open) {
	t.Helper()
	name := fmt.Sprintf("default/fenced-%d", time.Now().UnixNano()) // the service may have been tried before
	older := c.MustOpenSource(t, open(Open{Pipeline: name, Epoch: 7}))
	newer := c.MustOpenSource(t, open(Open{Pipeline: name, Epoch: 8}))
	if err := older.Ended(); err == nil {
		t.Error("the older stream ended without an error")
	}
	if _, err := c.OpenSource(t, open(Open{Pipeline: name, Epoch: 7})); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an older epoch opened again gave %v, want FAILED_PRECONDITION", err)
	}
	newer.Collect(1)
}

// asker is a stream that takes requests.
type asker interface {
	Send(records ...sdk.Record) uint64
	Answers(sequence uint64) []Answer
	Release(key string)
	Hangup() error
}

func runTransform(t *testing.T, c *Conn, tc TransformCase) {
	about := describe(t, c, conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM, tc.Type)
	o := Open{Type: tc.Type, Config: tc.Config}
	t.Run("refuses a bad config", func(t *testing.T) {
		refusesBadConfig(t, func(config string) error {
			_, err := c.OpenTransform(t, Open{Type: tc.Type, Config: config})
			return err
		})
	})
	runTaker(t, about, tc.Inputs, tc.Failing, func(t *testing.T) asker { return c.MustOpenTransform(t, o) })
}

func runSink(t *testing.T, c *Conn, tc SinkCase) {
	about := describe(t, c, conveyorv1.ServiceKind_SERVICE_KIND_SINK, tc.Type)
	epoch := uint64(time.Now().UnixNano()) // the service may have been tried before
	next := func(config string) Open {
		epoch++
		return Open{Type: tc.Type, Config: config, Stage: "suite", Epoch: epoch}
	}
	open := func(t *testing.T) *Write { return c.MustOpenSink(t, next(tc.Config)) }
	t.Run("refuses a bad config", func(t *testing.T) {
		refusesBadConfig(t, func(config string) error {
			_, err := c.OpenSink(t, next(config))
			return err
		})
	})
	runTaker(t, about, tc.Inputs, tc.Failing, func(t *testing.T) asker { return open(t) })
	t.Run("completes, also twice", func(t *testing.T) {
		w := open(t)
		w.Send(tc.Inputs...)
		for range 2 {
			if f := w.Complete(); f != nil {
				t.Fatalf("complete: %v", f)
			}
		}
	})
	if about.GetFences() {
		t.Run("an older owner is refused", func(t *testing.T) { refusesOlder(t, c, next(tc.Config), next(tc.Config), tc.Inputs) })
	}
}

func refusesOlder(t *testing.T, c *Conn, older, newer Open, inputs []sdk.Record) {
	t.Helper()
	replaced := c.MustOpenSink(t, older)
	replaced.Ask(inputs...)
	w := c.MustOpenSink(t, newer)
	if err := replaced.Ended(); Reason(err) != "FENCED" {
		t.Errorf("the stream of the older owner ended with %v, want FENCED", err)
	}
	if _, err := c.OpenSink(t, older); status.Code(err) != codes.FailedPrecondition || Reason(err) != "FENCED" {
		t.Errorf("the older owner opened again and got %v, want FAILED_PRECONDITION with the reason FENCED", err)
	}
	w.Ask(inputs...)
}

func runTaker(t *testing.T, about *conveyorv1.Ability, inputs []sdk.Record, failing *sdk.Record, open func(*testing.T) asker) {
	t.Helper()
	t.Run("answers many requests, each input once", func(t *testing.T) {
		a := open(t)
		var sent []uint64
		for i := range 20 {
			sent = append(sent, a.Send(inputs[:1+i%len(inputs)]...))
		}
		for _, sequence := range sent {
			for i, answer := range a.Answers(sequence) {
				if answer.Outcome != "ok" && answer.Outcome != "filtered" && answer.Outcome != "already" {
					t.Errorf("input %d: %+v", i, answer)
				}
			}
		}
		if err := a.Hangup(); err != nil {
			t.Errorf("the stream ended with %v", err)
		}
	})
	t.Run("takes a record of 1 MiB, whatever it makes of it", func(t *testing.T) {
		big := inputs[0].Clone()
		big.ID += "-big"
		big.Payload = []byte(`{"big":"` + strings.Repeat("x", 1<<20-4096) + `"}`)
		a := open(t)
		a.Answers(a.Send(big))
	})
	t.Run("refuses a gap in the sequences", func(t *testing.T) {
		switch a := open(t).(type) {
		case *Process:
			a.sequence = 7
			a.Send(inputs[0])
			checkRefused(t, a.Ended())
		case *Write:
			a.sequence = 7
			a.Send(inputs[0])
			checkRefused(t, a.Ended())
		}
	})
	if failing != nil && about.GetOrdered() {
		t.Run("a failed record holds back its key", func(t *testing.T) { holdsBack(t, open(t), inputs, *failing) })
	}
}

func checkRefused(t *testing.T, err error) {
	t.Helper()
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("ended with %v, want INVALID_ARGUMENT", err)
	}
}

func holdsBack(t *testing.T, a asker, inputs []sdk.Record, failing sdk.Record) {
	t.Helper()
	behind, other := inputs[0].Clone(), inputs[0].Clone()
	behind.ID, behind.Key = "behind", failing.Key
	other.ID, other.Key = "other", []byte("another key than "+string(failing.Key))
	expect := func(when string, sequence uint64, want ...string) {
		t.Helper()
		got := Outcomes(a.Answers(sequence))
		for i := range want {
			failed := got[i] != "ok" && got[i] != "filtered" && got[i] != "already" && got[i] != "not tried"
			if want[i] == "failed" && failed || want[i] == "fine" && !failed && got[i] != "not tried" || want[i] == got[i] {
				continue
			}
			t.Fatalf("%s: outcomes are %q, want %q", when, got, want)
		}
	}
	expect("within a request", a.Send(failing, behind, other), "failed", "not tried", "fine")
	expect("in the next request", a.Send(behind, other), "not tried", "fine")
	expect("with the failed record again", a.Send(failing, behind), "failed", "not tried")
	a.Release(string(failing.Key))
	expect("after a release", a.Send(behind), "fine")
	expect("when it fails anew", a.Send(failing), "failed")
	expect("when it has failed anew", a.Send(behind), "not tried")
}
