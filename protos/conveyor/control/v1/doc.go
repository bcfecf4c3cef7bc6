// Package controlv1 is the protocol of the control plane: resources, sessions, assignments, checkpoints, dead letters.
package controlv1
