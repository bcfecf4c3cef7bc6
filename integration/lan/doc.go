// Package lan gives a test hosts with addresses of their own on one machine: network namespaces at one switch, between which each direction can be cut.
package lan
