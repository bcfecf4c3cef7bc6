// Package sdk serves a source, a transform or a sink to Conveyor in a few lines.
package sdk
