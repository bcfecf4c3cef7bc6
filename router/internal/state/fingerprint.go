package state

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// fingerprintEvery is how many indexes lie between two states that routers compare.
const fingerprintEvery = 1000

// fingerprints are of no use to the log, and no part of the state.
type fingerprints struct {
	build  string               // empty when none are wanted
	copied *Machine             // the last state that is to be compared, until it has its fingerprint
	last   *statepb.Fingerprint // nil before the first
}

// WantFingerprints lets the state be copied now and then for Fingerprint. The build is that of this program: others may write the same state in another way. Call it before
// the first command.
func (m *Machine) WantFingerprints(build string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fingerprints.build = build
}

// keepForFingerprint is called behind every command. All routers keep the same states, because they have the same commands at the same indexes.
func (m *Machine) keepForFingerprint(before uint64) {
	if m.fingerprints.build != "" && m.index/fingerprintEvery != before/fingerprintEvery {
		m.fingerprints.copied = m.clone()
	}
}

// Fingerprint is that of the last state that routers compare: the one behind the first command at or after each thousandth index. It is nil before there was one since the
// start, or the last snapshot from another router. It reads the whole of a state that it has not seen, without keeping others from the machine.
func (m *Machine) Fingerprint() (*statepb.Fingerprint, error) {
	m.mu.RLock()
	copied, last, build := m.fingerprints.copied, m.fingerprints.last, m.fingerprints.build
	m.mu.RUnlock()
	if copied == nil {
		return last, nil
	}
	sum := sha256.New()
	if err := copied.write(sum); err != nil {
		return nil, fmt.Errorf("fingerprint of the state at index %d: %w", copied.index, err)
	}
	made := &statepb.Fingerprint{Index: copied.index, Sum: sum.Sum(nil), Build: build}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fingerprints.copied == copied { // and no later one, nor was a snapshot restored meanwhile
		m.fingerprints.copied, m.fingerprints.last = nil, made
	}
	return m.fingerprints.last, nil
}

// Divergence is what the fingerprints that routers announced tell of one of them.
type Divergence struct {
	// Index of the command behind which its state differs.
	Index uint64
	// From are the members that have another state, in order.
	From []string
	// Outvoted says that more than half of all members have one and the same other state: it is this router whose state is wrong.
	Outvoted bool
}

// Divergences compare the fingerprints that members have announced of the same index and build, and are those of the members whose state is not that of others, by their ids.
// Where no majority of all members has one state, nobody can tell whose is wrong.
func (v *View) Divergences(members []string) map[string]*Divergence {
	out := map[string]*Divergence{}
	for _, id := range members {
		if d := v.divergence(id, members); d != nil {
			out[id] = d
		}
	}
	return out
}

func (v *View) divergence(id string, members []string) *Divergence {
	own := v.Routers[id].GetFingerprint()
	if own == nil {
		return nil
	}
	d := &Divergence{Index: own.GetIndex()}
	votes := map[string]int{}
	for _, other := range members {
		f := v.Routers[other].GetFingerprint()
		if other == id || f.GetIndex() != own.GetIndex() || f.GetBuild() != own.GetBuild() || bytes.Equal(f.GetSum(), own.GetSum()) {
			continue
		}
		d.From = append(d.From, other)
		votes[string(f.GetSum())]++
		d.Outvoted = d.Outvoted || votes[string(f.GetSum())] > len(members)/2
	}
	if len(d.From) == 0 {
		return nil
	}
	slices.Sort(d.From)
	return d
}
