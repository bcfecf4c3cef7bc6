// Package disk gives machines of tests disks of their own, and makes them fail: lose power, fill, answer with an error, hang.
package disk
