package control_test

import (
	"crypto/ed25519"
	"strings"
	"testing"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/protos/ownership"
	"github.com/conveyor-etl/conveyor/sidecar/internal/control"
	"github.com/conveyor-etl/conveyor/sidecar/internal/routertest"
)

func clusterKey(cluster string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(cluster, ed25519.SeedSize)))
}

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// signed is an assignment that a cluster gave to a sidecar.
func signed(key ed25519.PrivateKey, sidecar string, a *controlv1.Assignment) *controlv1.Assignment {
	a.Signature = ownership.Of(a, sidecar).Sign(key)
	return a
}

func TestSession_TakesOnlyWhatItsClusterHasSignedForIt(t *testing.T) {
	ours, others := clusterKey("c"), clusterKey("o")
	r, e := routertest.Start(t), newEngine()
	r.Change(func(s *routertest.State) { s.AssignmentKey = publicOf(ours) })
	r.Change(desire(3, signed(ours, "s1", assignment("in", 2))))
	open(t, r, e)
	if got := e.next(t); len(got) != 1 {
		t.Fatalf("got %v", got)
	}
	// One that is not signed, among those that are: none of that state is taken, and what is in effect goes on.
	good := signed(ours, "s1", assignment("in", 2))
	r.Change(desire(4, good, assignment("unsigned", 4)))
	r.Change(desire(5, good, signed(others, "s1", assignment("of another cluster", 4))))
	r.Change(desire(6, good, signed(ours, "s2", assignment("of another sidecar", 4))))
	r.Change(desire(7, good, signed(ours, "s1", assignment("out", 4))))
	if got := e.next(t); len(got) != 2 || got[1].GetStage() != "out" {
		t.Errorf("got %v", got)
	}
}

func TestCheckSigned_WantsAKeyWhereThereAreCertificates(t *testing.T) {
	key := clusterKey("c")
	desired := &controlv1.WatchAssignmentsResponse{Assignments: []*controlv1.Assignment{signed(key, "s1", assignment("in", 2))}}
	for name, c := range map[string]struct {
		certificates bool
		key          []byte
		want         string
	}{
		"no certificates, no key":       {false, nil, ""},
		"certificates and a key":        {true, publicOf(key), ""},
		"certificates, no key":          {true, nil, "does not sign assignments"},
		"a key of another kind":         {true, []byte("key"), "upgrade the sidecar"},
		"the key of another cluster":    {true, publicOf(clusterKey("o")), "did not sign"},
		"a key, though no certificates": {false, publicOf(clusterKey("o")), "did not sign"},
	} {
		registration := &controlv1.RegisterResponse{Session: &controlv1.Session{SidecarId: "s1"}, AssignmentKey: c.key}
		err := control.CheckSigned(c.certificates, registration, desired)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
