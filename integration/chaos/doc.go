// Package chaos kills, pauses and cuts off the parts of a running system at random and proves what became of every record and of every change.
//
// The oracle source writes down what it is about to emit and what is committed to it, the oracle sink what it was given, each with fsync before
// it goes on. Check reads both when all is over. It trusts nothing that Conveyor says. Traffic is clients that change, read and watch resources of
// routers; the answers are judged by whether one router that does one thing after the other could have given them.
package chaos
