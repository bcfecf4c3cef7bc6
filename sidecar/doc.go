// Package sidecar is Conveyor's data plane: it runs stages and moves their records.
package sidecar
