// Package wire moves records between processes without decoding them: a gRPC codec, a buffer pool, and batches of encoded records.
//
// A stream message that carries records has a small head and, as its second field, a batch. [Message] keeps the batch encoded, so that
// a program which only passes records on never touches them. Programs in other languages see ordinary protobuf.
package wire
