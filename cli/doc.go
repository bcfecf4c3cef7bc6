// Package cli is the conveyor command.
package cli
