// Package cli is the conveyor command: what users type to write, run and look after pipelines.
package cli
