package dlq_test

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/conveyor-etl/conveyor/dlq"
)

func drawLetter(t *rapid.T) dlq.Letter {
	text := rapid.String()
	raw := rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })
	// The smallest number of nanoseconds is the mark of no time.
	when := rapid.Map(rapid.Int64Min(math.MinInt64+1), func(n int64) time.Time {
		if n%7 == 0 {
			return time.Time{}
		}
		return time.Unix(0, n).UTC()
	})
	attempts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) dlq.Attempt {
		return dlq.Attempt{Time: when.Draw(t, "time"), Code: text.Draw(t, "code"), Message: text.Draw(t, "message")}
	}), 0, 32).Draw(t, "attempts")
	return dlq.Letter{
		LetterID: raw.Draw(t, "letter id"), RecordID: raw.Draw(t, "record id"),
		Namespace: text.Draw(t, "namespace"), Pipeline: text.Draw(t, "pipeline"), Generation: rapid.Uint64().Draw(t, "generation"),
		Stage: text.Draw(t, "stage"), Edge: text.Draw(t, "edge"), Lane: raw.Draw(t, "lane"),
		Class: text.Draw(t, "class"), Code: text.Draw(t, "code"), Message: text.Draw(t, "message"),
		Attempts: attempts, AttemptCount: uint32(len(attempts)) + rapid.Uint32Max(1000).Draw(t, "more attempts"),
		Replays: rapid.Uint32().Draw(t, "replays"), Service: text.Draw(t, "service"), ServiceVersion: text.Draw(t, "version"),
		Record: rapid.SliceOf(rapid.Byte()).Draw(t, "record"),
	}
}

func TestEnvelope_HoldsEveryLetterWithinItsAnnouncedSize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawLetter(t)
		data := dlq.Encode(nil, &want)
		if again := dlq.Encode(nil, &want); !bytes.Equal(data, again) {
			t.Fatal("equal letters have different envelopes")
		}
		if size := dlq.ContextSize(&want); len(data)-len(want.Record) > size {
			t.Fatalf("context takes %d bytes, announced %d", len(data)-len(want.Record), size)
		}
		got, err := dlq.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		opts := cmp.Options{cmpopts.IgnoreFields(dlq.Letter{}, "Checksum"), cmpopts.EquateEmpty()}
		if diff := cmp.Diff(want, got, opts); diff != "" {
			t.Fatalf("letter (-want +got):\n%s", diff)
		}
	})
}

func TestEnvelope_EveryFlippedBitAndEveryCutIsDetected(t *testing.T) {
	l := letter(1)
	l.LetterID = l.Identity()
	data := dlq.Encode(nil, &l)
	for i := range data {
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << bit
			if _, err := dlq.Decode(bad); err == nil {
				t.Fatalf("bit %d of byte %d flipped unnoticed", bit, i)
			}
		}
		if _, err := dlq.Decode(data[:i]); err == nil {
			t.Fatalf("cut to %d bytes unnoticed", i)
		}
	}
}

func TestEnvelope_KeepsTheBeginningAndTheEndOfALongStory(t *testing.T) {
	l := letter(1)
	l.Message = strings.Repeat("ä", 8<<10)
	l.Attempts = nil
	for n := range 100 {
		l.Attempts = append(l.Attempts, dlq.Attempt{Time: time.Unix(int64(n), 0).UTC(), Code: "C", Message: strings.Repeat("é", 1000)})
	}
	l.AttemptCount = 0
	if data := dlq.Encode(nil, &l); len(data)-len(l.Record) > dlq.ContextSize(&l) {
		t.Errorf("context takes %d bytes, announced %d", len(data)-len(l.Record), dlq.ContextSize(&l))
	}
	got, err := dlq.Decode(dlq.Encode(nil, &l))
	if err != nil {
		t.Fatal(err)
	}
	if got.AttemptCount != 100 || len(got.Attempts) != 32 {
		t.Fatalf("%d attempts of %d", len(got.Attempts), got.AttemptCount)
	}
	if first, second := got.Attempts[0].Time.Unix(), got.Attempts[1].Time.Unix(); first != 0 || second != 69 {
		t.Errorf("attempts begin with %d, %d", first, second)
	}
	if len(got.Message) != 8<<10 || !utf8.ValidString(got.Message) || !utf8.ValidString(got.Attempts[5].Message) {
		t.Errorf("message of %d bytes is cut within a character", len(got.Message))
	}
}

func TestIdentity_TellsBranchesGenerationsAndReplaysApart(t *testing.T) {
	base := letter(1)
	seen := map[string]string{base.Identity(): "base"}
	for name, change := range map[string]func(*dlq.Letter){
		"record":     func(l *dlq.Letter) { l.RecordID = "x" },
		"namespace":  func(l *dlq.Letter) { l.Namespace = "x" },
		"pipeline":   func(l *dlq.Letter) { l.Pipeline = "x" },
		"generation": func(l *dlq.Letter) { l.Generation++ },
		"stage":      func(l *dlq.Letter) { l.Stage = "x" },
		"edge":       func(l *dlq.Letter) { l.Edge = "x" },
		"replays":    func(l *dlq.Letter) { l.Replays++ },
		"slash":      func(l *dlq.Letter) { l.Namespace, l.Pipeline = "default/users", "" },
		"no names":   func(l *dlq.Letter) { l.Namespace, l.Pipeline = "", "default/users" },
	} {
		l := letter(1)
		change(&l)
		if twin, taken := seen[l.Identity()]; taken {
			t.Errorf("%s has the identity of %s: %s", name, twin, l.Identity())
		}
		seen[l.Identity()] = name
	}
	same := letter(1)
	same.Message, same.Attempts, same.Lane = "another time", nil, "other"
	if same.Identity() != base.Identity() {
		t.Error("the story of a failure changes its identity")
	}
}

func TestSubject_KeepsDifferentNamesApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z.*>% /_-]{0,8}`)).Draw(t, "name")
		token := dlq.EscapeToken(name)
		if token == "" || strings.ContainsAny(token, ".*> \t\r\n\x00") {
			t.Fatalf("%q is not a token", token)
		}
		if got := dlq.UnescapeToken(token); got != name {
			t.Fatalf("%q became %q by way of %q", name, got, token)
		}
	})
}

func FuzzDecode(f *testing.F) {
	l := letter(1)
	f.Add(dlq.Encode(nil, &l))
	f.Add([]byte("CVDL\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := dlq.Decode(data)
		if err != nil {
			return
		}
		if again := dlq.Encode(nil, &l); len(again)-len(l.Record) > dlq.ContextSize(&l) {
			t.Errorf("context takes %d bytes, announced %d", len(again)-len(l.Record), dlq.ContextSize(&l))
		}
	})
}
