// Package raftstore runs a replicated state machine on hashicorp/raft.
//
// A program gives [Open] a directory and a [StateMachine]; commands go in by [Store.Propose] and are applied in one order, each on stable storage before it is
// applied. [Store.Read] makes reads of the machine linearizable. A cluster has one server, or several
// that reach each other by [Store.RaftService]. [Store.WriteSnapshot] writes the state out of a cluster, and [Store.Restore] brings it into another one. Of a
// cluster whose majority is lost for good, [Salvage] and [Refound] make another one of what one server has.
package raftstore
