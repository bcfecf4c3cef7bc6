package state

import (
	"crypto/ed25519"

	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// adoptSigningKey keeps the first key: sidecars hold on to the public half that they were told.
func (m *Machine) adoptSigningKey(c *statepb.AdoptSigningKey) *RejectedError {
	if len(c.GetSeed()) != ed25519.SeedSize {
		return reject(Malformed, "a signing key is made from %d bytes, not %d", ed25519.SeedSize, len(c.GetSeed()))
	}
	if m.signingKey == nil {
		m.signingKey = c
	}
	return nil
}

// SigningKey signs assignments; nil while the cluster has none.
func (m *Machine) SigningKey() ed25519.PrivateKey {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.signingKey == nil {
		return nil
	}
	return ed25519.NewKeyFromSeed(m.signingKey.GetSeed())
}
