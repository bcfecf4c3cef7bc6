// Package raftstore runs a replicated state machine on hashicorp/raft.
//
// A program gives [Open] a directory and a [StateMachine]; commands go in by [Store.Propose] and are applied in one order, each on stable storage before it is
// applied. [Store.Read] makes reads of the machine linearizable. This version runs a cluster of one node, which is founded when its directory is empty.
package raftstore
