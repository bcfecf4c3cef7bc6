// Package client is the typed Go client of Conveyor's control plane: manifests, pipelines, dead letters, and the session of a sidecar.
//
// A [Client] knows one or more routers. It asks one of them and goes on to the next when that one does not answer; what is safe to repeat
// is repeated with jittered pauses, watches resume where they broke off, and every failure comes back as a Go error that [errors.Is] and
// [errors.As] can tell apart. A Client is safe for concurrent use.
package client
