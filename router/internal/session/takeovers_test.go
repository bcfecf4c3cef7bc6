package session_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/conveyor-etl/conveyor/router/internal/session"
)

func TestTakeovers_TwoSidecarsOfOneIDDoNotAlternateForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o session.Takeovers
		for n := range 3 {
			if !o.Allow("a") {
				t.Fatalf("refused after %d takeovers", n)
			}
			time.Sleep(time.Second)
		}
		if o.Allow("a") {
			t.Error("a fourth one within seconds")
		}
		if !o.Allow("b") {
			t.Error("another id was refused")
		}
		time.Sleep(5 * time.Minute)
		if !o.Allow("a") {
			t.Error("refused long after")
		}
	})
}
