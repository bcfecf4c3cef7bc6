package control

import (
	"errors"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/protos/ownership"
)

var (
	errNoKey    = errors.New("the router does not sign assignments, although there are certificates: it is of another version, or has none itself")
	errWrongKey = errors.New("the router signs assignments with a key that this version cannot use: upgrade the sidecar")
)

// checkKey checks the key of a registration. signed says that there must be one.
func checkKey(signed bool, registration *controlv1.RegisterResponse) error {
	switch n := len(registration.GetAssignmentKey()); {
	case n == 0 && signed:
		return errNoKey
	case n != 0 && n != ownership.KeySize:
		return errWrongKey
	}
	return nil
}

// CheckSigned checks that the cluster assigned to a sidecar what it is told to run. Without certificates there is nothing to check.
func CheckSigned(signed bool, registration *controlv1.RegisterResponse, desired *controlv1.WatchAssignmentsResponse) error {
	if err := checkKey(signed, registration); err != nil {
		return err
	}
	key := registration.GetAssignmentKey()
	if len(key) == 0 {
		return nil
	}
	for _, a := range desired.GetAssignments() {
		if err := ownership.Of(a, registration.GetSession().GetSidecarId()).Verify(key, a.GetSignature()); err != nil {
			return err
		}
	}
	return nil
}
