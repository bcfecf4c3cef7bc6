// Package chaos kills and pauses the parts of a running pipeline at random and proves from two ledgers what became of every record.
//
// The oracle source writes down what it is about to emit and what is committed to it, the oracle sink what it was given, each with fsync before
// it goes on. Check reads both when all is over. It trusts nothing that Conveyor says.
package chaos
