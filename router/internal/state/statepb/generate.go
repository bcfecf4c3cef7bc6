// Package statepb is the encoding of the router's log and snapshots.
package statepb

//go:generate ../../../../bin/tools/buf generate
