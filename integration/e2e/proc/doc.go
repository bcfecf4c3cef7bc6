// Package proc runs Conveyor as its users do for tests: the binaries as processes of their own, which are started, stopped, killed and paused.
//
// A test package calls Main from its TestMain. Whatever a test starts ends with the test, and tells what it logged when the test failed.
package proc
