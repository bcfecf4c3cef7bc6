// Package router is Conveyor's control plane: resources, sessions, assignments, checkpoints.
package router
