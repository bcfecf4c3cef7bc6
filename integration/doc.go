// Package integration holds the tests that cross modules.
package integration
