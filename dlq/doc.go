// Package dlq keeps records that failed for good in NATS JetStream, to be listed, replayed or discarded.
//
// A failed record becomes a [Letter]: the record as it entered the failing stage, opaque to this package, with everything an operator
// needs to understand the failure. [Open] gives a [Store] over one JetStream stream; package dlq/embed runs the server for it inside the
// process.
//
// What a Store promises:
//
//   - [Store.Append] returns nil only when every letter is on stable storage, provided that the server syncs every write, which
//     dlq/embed makes it do.
//   - A letter is stored once per [Letter.LetterID] for as long as the store holds it, however old it is.
//   - Nothing is deleted but by [Store.Discard] and [Store.Replace]: no age limit, and a full store refuses new letters instead of
//     dropping old ones.
//   - A damaged letter is reported as a [*CorruptError], letters that vanished as a [*LostError]; neither is skipped or repaired by deleting.
//
// One Store may be open per stream and directory at a time.
package dlq
