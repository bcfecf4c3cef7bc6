// Package ownership signs and verifies which sidecar owns a stage.
//
// The routers sign with the key of their cluster what they assign. Whoever has the public half can tell that an epoch which somebody
// shows was given out, to whom, and for what, without asking a router. Signatures are those of Ed25519 (RFC 8032).
package ownership

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
)

// KeySize is how many bytes a public key has.
const KeySize = ed25519.PublicKeySize

// ErrNotSigned is returned for a claim that the cluster did not sign.
var ErrNotSigned = errors.New("the routers of this cluster did not sign it")

// Claim says that a sidecar owns a range of a stage's key slots. Claims can be compared with ==.
type Claim struct {
	PipelineUID string
	Generation  uint64
	Stage       string
	// FirstSlot and LastSlot bound the range, and belong to it.
	FirstSlot, LastSlot uint32
	// Incarnation and Index are the epoch of the assignment.
	Incarnation, Index uint64
	SidecarID          string
}

// Of is the claim of the sidecar that has an assignment.
func Of(a *controlv1.Assignment, sidecarID string) Claim {
	return Claim{
		PipelineUID: a.GetPipelineUid(), Generation: a.GetGeneration(), Stage: a.GetStage(), FirstSlot: a.GetFirstSlot(), LastSlot: a.GetLastSlot(),
		Incarnation: a.GetEpoch().GetIncarnation(), Index: a.GetEpoch().GetIndex(), SidecarID: sidecarID,
	}
}

// OfSender is the claim of who opens a link, in the pipeline of that uid.
func OfSender(open *linkv1.LinkOpen, pipelineUID string) Claim {
	o := open.GetOwnership()
	return Claim{
		PipelineUID: pipelineUID, Generation: open.GetGeneration(), Stage: open.GetFrom(), FirstSlot: o.GetFirstSlot(), LastSlot: o.GetLastSlot(),
		Incarnation: open.GetSender().GetIncarnation(), Index: open.GetSender().GetIndex(), SidecarID: o.GetSidecarId(),
	}
}

// Sign returns the signature of a claim.
func (c Claim) Sign(key ed25519.PrivateKey) []byte { return ed25519.Sign(key, c.encode()) }

// Verify checks a signature of the claim. The error names the claim and matches ErrNotSigned. A key that is none, for its length, has signed nothing.
func (c Claim) Verify(key ed25519.PublicKey, signature []byte) error {
	if len(key) == KeySize && ed25519.Verify(key, c.encode(), signature) {
		return nil
	}
	return fmt.Errorf("%v: %w", c, ErrNotSigned)
}

// String is for people.
func (c Claim) String() string {
	return fmt.Sprintf("sidecar %s owns slots %d-%d of stage %s in generation %d of the pipeline with uid %s since epoch %d.%d",
		c.SidecarID, c.FirstSlot, c.LastSlot, c.Stage, c.Generation, c.PipelineUID, c.Incarnation, c.Index)
}

// domain keeps a signature from meaning anything where the key signs something else.
const domain = "conveyor assignment 1\x00"

// encode writes a claim in one way only: numbers as 8 bytes, texts behind their length.
func (c Claim) encode() []byte {
	b := make([]byte, 0, len(domain)+8*8+len(c.PipelineUID)+len(c.Stage)+len(c.SidecarID))
	b = append(b, domain...)
	for _, text := range []string{c.PipelineUID, c.Stage, c.SidecarID} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(text)))
		b = append(b, text...)
	}
	for _, n := range []uint64{c.Generation, uint64(c.FirstSlot), uint64(c.LastSlot), c.Incarnation, c.Index} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}
