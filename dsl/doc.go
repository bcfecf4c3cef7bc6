// Package dsl reads, validates and draws Conveyor's manifests.
package dsl
