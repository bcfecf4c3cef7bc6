// Package e2e tries the product as users run it: every part a process of its own, which starts, stops, crashes and comes back.
package e2e
