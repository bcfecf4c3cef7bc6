// Package dlq keeps records that failed for good in NATS JetStream, to be listed, replayed or discarded.
package dlq
