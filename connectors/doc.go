// Package connectors holds Conveyor's ready-made sources and sinks.
package connectors
