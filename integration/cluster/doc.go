// Package cluster runs routers with certificates on machines of their own, which fail as machines do.
//
// What a cluster promises is told by scenarios that know nothing of how a machine is made: a network namespace with a process in it, or a container.
package cluster
