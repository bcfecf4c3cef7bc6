package sidecar

import (
	"github.com/conveyor-etl/conveyor/internal/auth"

	"github.com/conveyor-etl/conveyor/sidecar/internal/engine"
)

// DataPlane is the part that moves records, for tests that look at how it is driven.
type DataPlane = dataPlane

// UseEngine makes the sidecar run another engine than its own; it is given the session.
func (s *Sidecar) UseEngine(build func(engine.Control) DataPlane) {
	s.newEngine = func(cfg engine.Config) dataPlane { return build(cfg.Control) }
}

// CheckRules compares the rules with the methods of a server.
func CheckRules(srv auth.Server) error { return rules.Check(srv) }

// Unfit says why what is remembered is not used at a place.
var Unfit = unfit
