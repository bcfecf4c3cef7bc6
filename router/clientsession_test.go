package router_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

func TestClientSession_ARepeatIsAnsweredAsTheFirstAndChangesNothing(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	opened, err := n.admin.OpenClientSession(t.Context(), &controlv1.OpenClientSessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	command := func(sequence uint64) *controlv1.Command {
		return &controlv1.Command{ClientSession: opened.GetClientSession(), Sequence: sequence, LowestUnanswered: 1}
	}
	apply := func(sequence uint64, manifest string) (*controlv1.ApplyResponse, error) {
		return n.admin.Apply(t.Context(), &controlv1.ApplyRequest{Manifests: [][]byte{[]byte(manifest)}, Command: command(sequence)})
	}
	first, err := apply(1, source("in", "file"))
	if err != nil {
		t.Fatal(err)
	}
	n.apply(source("in", "generate")) // somebody else, meanwhile
	again, err := apply(1, source("in", "file"))
	if err != nil || again.GetResults()[0].GetAction() != first.GetResults()[0].GetAction() || again.GetResults()[0].GetAction() != controlv1.ApplyAction_APPLY_ACTION_CREATED {
		t.Errorf("the repeat: %v, %v", again, err)
	}
	now, err := n.admin.GetResource(t.Context(), &controlv1.GetResourceRequest{Ref: &controlv1.ResourceRef{Kind: "Source", Name: "in"}})
	if err != nil || spec(now.GetResource().GetManifest()) != `{"connector":{"type":"generate"}}` {
		t.Errorf("the repeat was applied over a later change: %s, %v", spec(now.GetResource().GetManifest()), err)
	}
	remove := func() error {
		_, err := n.admin.DeleteResource(t.Context(), &controlv1.DeleteResourceRequest{Ref: &controlv1.ResourceRef{Kind: "Source", Name: "in"}, Command: command(2)})
		return err
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	n.apply(source("in", "file"))
	if err := remove(); err != nil {
		t.Errorf("the repeat of the delete: %v", err)
	}
	if _, err := n.admin.GetResource(t.Context(), &controlv1.GetResourceRequest{Ref: &controlv1.ResourceRef{Kind: "Source", Name: "in"}}); err != nil {
		t.Errorf("the repeat deleted a later one: %v", err)
	}
	if _, err := n.admin.EndClientSession(t.Context(), &controlv1.EndClientSessionRequest{ClientSession: opened.GetClientSession()}); err != nil {
		t.Fatal(err)
	}
	_, err = apply(3, source("out", "file"))
	mustRefuse(t, err, "CLIENT_SESSION_ENDED")
}

// A copy of a change that comes after the client was told how it ended changes nothing, also when it ended without a change.
func TestClientSession_ALateCopyOfAnAnsweredChangeDoesNothing(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	opened, err := n.admin.OpenClientSession(t.Context(), &controlv1.OpenClientSessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	command := func(sequence uint64) *controlv1.Command {
		return &controlv1.Command{ClientSession: opened.GetClientSession(), Sequence: sequence, LowestUnanswered: 1}
	}
	ref := &controlv1.ResourceRef{Kind: "Source", Name: "in"}
	remove := func() error {
		_, err := n.admin.DeleteResource(t.Context(), &controlv1.DeleteResourceRequest{Ref: ref, Command: command(1)})
		return err
	}
	mustRefuse(t, remove(), "NOT_FOUND")
	n.apply(source("in", "file"))
	mustRefuse(t, remove(), "NOT_FOUND")
	if _, err := n.admin.GetResource(t.Context(), &controlv1.GetResourceRequest{Ref: ref}); err != nil {
		t.Errorf("deleted although the client was told NOT_FOUND: %v", err)
	}

	unchanged := func() *controlv1.ApplyResponse {
		resp, err := n.admin.Apply(t.Context(), &controlv1.ApplyRequest{Manifests: [][]byte{[]byte(source("in", "file"))}, Command: command(2)})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	unchanged()
	n.apply(source("in", "generate"))
	if a := unchanged().GetResults()[0].GetAction(); a != controlv1.ApplyAction_APPLY_ACTION_UNCHANGED {
		t.Errorf("the late copy: %v", a)
	}
	now, err := n.admin.GetResource(t.Context(), &controlv1.GetResourceRequest{Ref: ref})
	if err != nil || spec(now.GetResource().GetManifest()) != `{"connector":{"type":"generate"}}` {
		t.Errorf("the late copy was applied over a later change: %s, %v", spec(now.GetResource().GetManifest()), err)
	}

	restart := func() error {
		_, err := n.admin.RestartPipeline(t.Context(), &controlv1.RestartPipelineRequest{Namespace: "default", Name: "p", FromStart: true, Command: command(3)})
		return err
	}
	mustRefuse(t, restart(), "NOT_FOUND")
	n.apply(simple...)
	mustRefuse(t, restart(), "NOT_FOUND")
}

func TestApply_TheRevisionIsThatOfTheChangeAndNotOfALaterOne(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	const writers, rounds = 4, 25
	var mu sync.Mutex
	seen := map[uint64]string{}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				resp, err := n.tryApply(fmt.Sprintf(`{"apiVersion":"conveyor.etl/v1","kind":"Source","metadata":{"name":"in","labels":{"v":"%d-%d"}},"spec":{"connector":{"type":"file"}}}`, w, i))
				if err != nil {
					continue // others were faster too often
				}
				r := resp.GetResults()[0].GetResource()
				mu.Lock()
				if other, twice := seen[r.GetRevision()]; twice || !strings.Contains(string(r.GetManifest()), fmt.Sprintf("%d-%d", w, i)) {
					t.Errorf("revision %d is said to be of %d-%d and of %s: %s", r.GetRevision(), w, i, other, r.GetManifest())
				}
				seen[r.GetRevision()] = fmt.Sprintf("%d-%d", w, i)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) < rounds {
		t.Errorf("only %d changes were made", len(seen))
	}
}
