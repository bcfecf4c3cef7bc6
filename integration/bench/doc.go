// Command bench measures contenders beside the floor, in one alternating block, and prints a table of medians.
//
// Absolute figures of a shared machine drift by a factor of two within an hour, so only ratios of one block mean
// anything. In each round every contender runs once, and the floor runs twice: the ratio of its two halves (A/A) is how
// far two equal things appear to be apart, and no difference below it is one.
//
// A contender is a program that runs one workload and prints one line of JSON with the members of measurement.
package main
