package ownership_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/ownership"
)

var (
	key    = ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", ed25519.SeedSize)))
	public = key.Public().(ed25519.PublicKey)
)

var claim = ownership.Claim{
	PipelineUID: "p1", Generation: 2, Stage: "load", FirstSlot: 0, LastSlot: 255, Incarnation: 1, Index: 77, SidecarID: "a",
}

func TestClaim_IsOneOfNobodyElseAndForNothingElse(t *testing.T) {
	signature := claim.Sign(key)
	if err := claim.Verify(public, signature); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(c *ownership.Claim){
		"pipeline":    func(c *ownership.Claim) { c.PipelineUID = "p2" },
		"generation":  func(c *ownership.Claim) { c.Generation++ },
		"stage":       func(c *ownership.Claim) { c.Stage = "parse" },
		"first slot":  func(c *ownership.Claim) { c.FirstSlot++ },
		"last slot":   func(c *ownership.Claim) { c.LastSlot-- },
		"incarnation": func(c *ownership.Claim) { c.Incarnation++ },
		"index":       func(c *ownership.Claim) { c.Index++ },
		"sidecar":     func(c *ownership.Claim) { c.SidecarID = "b" },
		// The same bytes, cut elsewhere.
		"stage and sidecar": func(c *ownership.Claim) { c.Stage, c.SidecarID = "loa", "da" },
	} {
		other := claim
		change(&other)
		if err := other.Verify(public, signature); !errors.Is(err, ownership.ErrNotSigned) || !strings.Contains(err.Error(), other.SidecarID) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	other := ed25519.NewKeyFromSeed([]byte(strings.Repeat("o", ed25519.SeedSize)))
	for name, amiss := range map[string]struct {
		key       ed25519.PublicKey
		signature []byte
	}{
		"of another cluster":  {other.Public().(ed25519.PublicKey), signature},
		"without a key":       {nil, signature},
		"with a key cut off":  {public[:31], signature},
		"without a signature": {public, nil},
		"cut off":             {public, signature[:63]},
		"of something longer": {public, append(signature[:64:64], 0)},
	} {
		if err := claim.Verify(amiss.key, amiss.signature); !errors.Is(err, ownership.ErrNotSigned) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What one version signs, every other one must verify.
func TestClaim_IsSignedAlikeByEveryVersion(t *testing.T) {
	const want = "7d8c6a186d83975f39d7153e5bfebb170ad6b27d16f743b9976500a7889ff6ca80e289ac97c7aaf0b2fbd54ba5d5de5e0015a2cdc4f49350a872d56ba15a0708"
	if got := hex.EncodeToString(claim.Sign(key)); got != want {
		t.Errorf("signature %s, was %s", got, want)
	}
}

func TestClaim_IsTheSameInAnAssignmentAndInTheLinkOfItsOwner(t *testing.T) {
	epoch := &conveyorv1.Epoch{Incarnation: 1, Index: 77}
	a := &controlv1.Assignment{PipelineUid: "p1", Generation: 2, Stage: "load", Epoch: epoch, LastSlot: 255}
	if got := ownership.Of(a, "a"); got != claim {
		t.Errorf("of the assignment: %v", got)
	}
	open := &linkv1.LinkOpen{Generation: 2, From: "load", Sender: epoch, Ownership: &linkv1.Ownership{SidecarId: "a", LastSlot: 255}}
	if got := ownership.OfSender(open, "p1"); got != claim {
		t.Errorf("of the sender: %v", got)
	}
}
