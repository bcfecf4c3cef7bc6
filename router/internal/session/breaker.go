package session

import (
	"slices"
	"time"
)

const (
	// tooMany: when more than one of so many sessions fall silent together, it may be this router that does not hear. It is a rational number, numerator first.
	tooMany, ofSessions = 3, 10
	// patience is for how many TTLs more an end is held back.
	patience = 2
)

// overdue are the sessions to end now, and those whose end is held back, in order. When many sessions fall silent within one TTL, the reason is more likely the network of
// this router than that so many sidecars have failed, and to place all their stages anew would be the larger harm. When the others are heard again, those that are still
// silent have a TTL from then on to be heard too. An end is held back for two TTLs at most, and not at all for a sidecar that another one which is heard does not reach
// either, nor when all that are silent run on one machine, which can fail as a whole. held remembers whose end was held back when.
func overdue(held map[string]lease, ttl time.Duration, now time.Time) (end map[string]lease, back []string) {
	end = map[string]lease{}
	missed := map[string]bool{}
	for _, l := range held {
		if l.silent(ttl, now) {
			continue
		}
		for id := range l.misses {
			missed[id] = true
		}
	}
	// Silence that others confirm says nothing of this router.
	silent, machines := 0, map[string]bool{}
	for id, l := range held {
		if l.silent(ttl, now) && !missed[id] {
			silent++
			machines[l.machine] = true
		}
	}
	suspect := silent*ofSessions > len(held)*tooMany && len(machines) > 1
	for id, l := range held {
		switch {
		case !now.After(l.until):
		case missed[id] || now.After(l.until.Add(patience*ttl)):
			end[id] = l
		case suspect:
			l.kept = now
			held[id] = l
			back = append(back, id)
		case !l.kept.IsZero() && !now.After(l.kept.Add(ttl)):
			back = append(back, id)
		default:
			end[id] = l
		}
	}
	slices.Sort(back)
	return end, back
}
