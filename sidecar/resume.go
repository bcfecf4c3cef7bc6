package sidecar

import (
	"slices"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/sidecar/internal/control"
	"github.com/conveyor-etl/conveyor/sidecar/internal/statefile"
)

// journal writes into the state file what a sidecar is told at a place.
type journal struct {
	file  *statefile.File
	place statefile.Place
}

// Record remembers what a session was told to run.
func (j journal) Record(registration *controlv1.RegisterResponse, desired *controlv1.WatchAssignmentsResponse) error {
	return j.file.Record(registration, j.place, desired)
}

// remembered returns what the sidecar goes on with when no router answers, or nil when there is nothing or it is not of this place.
func (s *Sidecar) remembered(here statefile.Place) *control.Remembered {
	st := s.state.State()
	if st.Registration.GetSession().GetEpoch() == 0 || st.Desired == nil {
		return nil
	}
	if reason := unfit(st, here, s.certs != nil); reason != "" {
		s.log.Warn("what was assigned before the restart is not used without a router", "sidecar", st.SidecarID, "reason", reason,
			"address", here.Address, "remembered_address", st.Place.Address, "routers", here.Routers, "remembered_routers", st.Place.Routers)
		return nil
	}
	return &control.Remembered{Registration: st.Registration, Desired: st.Desired}
}

// unfit says why what is remembered is of no use here, or is empty.
func unfit(st statefile.State, here statefile.Place, signed bool) string {
	switch {
	case st.Registration.GetSession().GetSidecarId() != st.SidecarID:
		return "it was assigned to another sidecar"
	case st.Place.Address != here.Address:
		return "other sidecars know this one by another address"
	case !slices.ContainsFunc(st.Place.Routers, func(r string) bool { return slices.Contains(here.Routers, r) }):
		return "it is from another cluster: none of its routers is configured"
	}
	if err := control.CheckSigned(signed, st.Registration, st.Desired); err != nil {
		return err.Error()
	}
	return ""
}
