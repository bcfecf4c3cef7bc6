package engine_test

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/conveyor-etl/conveyor/internal/auth"
	"github.com/conveyor-etl/conveyor/internal/certs"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	"github.com/conveyor-etl/conveyor/protos/ownership"
	"github.com/conveyor-etl/conveyor/protos/wire"
)

// keyOf is the signing key of a cluster.
func keyOf(cluster string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(cluster, ed25519.SeedSize)))
}

// certificates returns those of sidecars by their names.
func certificates(t *testing.T, names ...string) map[string]*certs.Store {
	t.Helper()
	authority, err := certs.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	stores := map[string]*certs.Store{}
	for _, name := range names {
		files, err := authority.Issue(certs.Identity{Role: certs.RoleSidecar, Name: name}, []string{"127.0.0.1"}, time.Hour, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if stores[name], err = certs.Load(files, nil); err != nil {
			t.Fatal(err)
		}
	}
	return stores
}

// show makes a link show that the cluster made a sidecar the owner of what the link says.
func show(key ed25519.PrivateKey, sidecar string) func(*linkv1.LinkOpen) {
	return func(open *linkv1.LinkOpen) {
		open.Ownership = &linkv1.Ownership{SidecarId: sidecar, LastSlot: 255}
		open.Ownership.Signature = ownership.OfSender(open, "p1").Sign(key)
	}
}

func TestASenderThatCannotShowThatItOwnsItsStageIsNotBelieved(t *testing.T) {
	cluster := keyOf("c")
	stores := certificates(t, "b", "x", "y", certs.AnyName)
	rules := auth.Table{controlv1.SidecarDataPlane_Link_FullMethodName: {certs.RoleSidecar}}
	n := newNode(t, "b", newControl(), grpc.Creds(stores["b"].ServerCredentials()), grpc.StreamInterceptor(rules.Stream))
	n.engine.Apply(cluster.Public().(ed25519.PublicKey), behindX(newSink(t), nil))
	eventually(t, "the stage runs", func() bool { return n.status("out").GetOpen() })

	link := func(certificate string, changes ...func(*linkv1.LinkOpen)) (*peerLink, error) {
		t.Helper()
		conn, err := grpc.NewClient("passthrough:///"+n.addr, grpc.WithTransportCredentials(stores[certificate].IdentityCredentials(certs.RoleSidecar, "b")),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{})))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return openLink(t, conn, func(open *linkv1.LinkOpen) {
			for _, change := range changes {
				change(open)
			}
		})
	}
	newer := func(open *linkv1.LinkOpen) { open.Sender.Index = 1000 }
	if _, err := link("x", show(cluster, "x")); err != nil {
		t.Fatalf("the owner: %v", err)
	}
	for name, forgery := range map[string]struct {
		certificate string
		changes     []func(*linkv1.LinkOpen)
	}{
		"nothing shown":                {"x", nil},
		"nothing shown, a later epoch": {"y", []func(*linkv1.LinkOpen){newer}},
		"a later epoch than signed":    {"x", []func(*linkv1.LinkOpen){show(cluster, "x"), newer}},
		"signed by another cluster":    {"x", []func(*linkv1.LinkOpen){newer, show(keyOf("o"), "x")}},
		"signed for another sidecar":   {"y", []func(*linkv1.LinkOpen){show(cluster, "x")}},
		"signed for another stage": {"x", []func(*linkv1.LinkOpen){
			func(open *linkv1.LinkOpen) { open.From = "other" }, show(cluster, "x"), func(open *linkv1.LinkOpen) { open.From = "in" },
		}},
		"signed for another generation": {"x", []func(*linkv1.LinkOpen){
			func(open *linkv1.LinkOpen) { open.Generation = 2 }, show(cluster, "x"), func(open *linkv1.LinkOpen) { open.Generation = 1 },
		}},
	} {
		if _, err := link(forgery.certificate, forgery.changes...); reason(err) != "NOT_THE_OWNER" {
			t.Errorf("%s: %v", name, err)
		}
	}
	// None of that has put the owner aside.
	if _, err := link(certs.AnyName, show(cluster, "x")); err != nil {
		t.Fatalf("the owner, with a certificate of all sidecars: %v", err)
	}
	// A successor is believed before a router has said that there is one.
	if _, err := link("y", newer, show(cluster, "y")); err != nil {
		t.Fatalf("the successor: %v", err)
	}
	if _, err := link("x", show(cluster, "x")); reason(err) != "FENCED" {
		t.Errorf("the owner that was: %v", err)
	}
}
