package dlq_test

import (
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/dlq"
)

func TestCopy_OneThatWasNeverHeardOfIsNotSaidToBeHeardOfJustNow(t *testing.T) {
	never := dlq.Copy{Server: "2-b"}
	if got := never.Missing(); !strings.Contains(got, "has not heard of that of server 2-b yet") || strings.Contains(got, " ago") {
		t.Errorf("it says %q", got)
	}
	silent := dlq.Copy{Server: "2-b", Lag: 3, Silent: 90 * time.Second}
	if got, want := silent.Missing(), "the copy at server 2-b is 3 changes behind, and was heard of 1m30s ago"; got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
}
