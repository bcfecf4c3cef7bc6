package session_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/conveyor-etl/conveyor/router/internal/session"
)

func everybody(string) bool { return true }

func TestInstances_OneThatWasSupersededIsKnownAndOneThatIsNewIsNot(t *testing.T) {
	var o session.Instances
	o.Opened("a", 1, "first", everybody)
	o.Opened("a", 2, "second", everybody)
	o.Opened("b", 3, "second", everybody)
	for instance, want := range map[string]bool{"first": true, "second": false, "third": false} {
		if got := o.Superseded("a", 2, instance); got != want {
			t.Errorf("the %s instance: superseded %t", instance, got)
		}
	}
	if o.Superseded("b", 3, "first") {
		t.Error("an instance of another id counts")
	}
	o.Opened("a", 4, "first", everybody) // while the second one was silent
	if o.Superseded("a", 4, "first") || !o.Superseded("a", 4, "second") {
		t.Error("who has the id again is said to have lost it, or who lost it to have it")
	}
}

func TestInstances_WhatALeaderKnewBeforeAnotherOneLedCountsNoMore(t *testing.T) {
	var o session.Instances
	o.Opened("a", 1, "first", everybody)
	o.Opened("a", 2, "second", everybody)
	if o.Superseded("a", 7, "first") {
		t.Error("it refuses an instance that may have the session which another leader opened")
	}
	o.Opened("a", 8, "first", everybody)
	if o.Superseded("a", 8, "first") {
		t.Error("it refuses the instance that has the session")
	}
}

func TestInstances_AreThoseOfTheLogInWhicheverOrderTheyAreTold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		opened := rapid.SliceOfN(rapid.SampledFrom([]string{"", "x", "y", "z"}), 1, 6).Draw(t, "instances in the order of the log")
		var o session.Instances
		for _, n := range rapid.Permutation(slices.Collect(indices(len(opened)))).Draw(t, "order") {
			o.Opened("a", uint64(n)+1, opened[n], everybody)
		}
		last := opened[len(opened)-1]
		for _, instance := range []string{"x", "y", "z"} {
			want := instance != last && slices.Contains(opened, instance)
			if got := o.Superseded("a", uint64(len(opened)), instance); got != want {
				t.Errorf("%s: superseded %t after %q", instance, got, opened)
			}
		}
	})
}

func indices(n int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

func TestInstances_AreForgottenOfThoseThatAreGone(t *testing.T) {
	var o session.Instances
	for n := range 100_000 {
		o.Opened(fmt.Sprint(n), uint64(n)+1, "x", func(sidecar string) bool { return sidecar == "7" })
		if got := o.Known(); got > 20_000 {
			t.Fatalf("%d ids are known, of one sidecar that is there", got)
		}
	}
	for n := range 100 {
		o.Opened("7", uint64(200_000+n), fmt.Sprint(n), everybody)
	}
	if !o.Superseded("7", 200_099, "98") {
		t.Error("one that is there was forgotten")
	}
	if o.Superseded("7", 200_099, "1") {
		t.Error("all instances of an id that is started again and again are kept")
	}
}
