package api

import (
	"crypto/ed25519"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/protos/ownership"
)

// signer signs the assignments of one sidecar. It remembers what it signed last: most of what a sidecar has stays when something changes.
type signer struct {
	sidecar string
	key     ed25519.PrivateKey // nil signs nothing
	signed  map[ownership.Claim][]byte
}

// signer returns one with the key of the cluster.
func (c *coordinator) signer(sidecar string) *signer {
	s := &signer{sidecar: sidecar}
	if c.Sign {
		s.key = c.Machine.SigningKey()
	}
	return s
}

// public is the half of the key that sidecars are told.
func (s *signer) public() []byte {
	if s.key == nil {
		return nil
	}
	return s.key.Public().(ed25519.PublicKey)
}

// sign adds the signatures to all that the sidecar has now.
func (s *signer) sign(assignments []*controlv1.Assignment) {
	if s.key == nil {
		return
	}
	now := make(map[ownership.Claim][]byte, len(assignments))
	for _, a := range assignments {
		claim := ownership.Of(a, s.sidecar)
		signature, known := s.signed[claim]
		if !known {
			signature = claim.Sign(s.key)
		}
		a.Signature, now[claim] = signature, signature
	}
	s.signed = now
}
