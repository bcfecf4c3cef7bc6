// Package client is the typed Go client of Conveyor's control plane.
package client
