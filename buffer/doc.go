// Package buffer provides credit windows, bounded queues and fair merging for record flows.
package buffer
