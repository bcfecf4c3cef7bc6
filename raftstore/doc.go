// Package raftstore runs a replicated state machine on hashicorp/raft.
package raftstore
