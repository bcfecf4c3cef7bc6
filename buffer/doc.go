// Package buffer provides credit windows, bounded queues and fair merging for record flows:
// a sender may have at most so many records and so many bytes under way, whatever its peer does.
//
// Everything is counted in two units at once, records and bytes, and both must fit. One exception
// keeps large records from waiting for ever: a single record may overdraw a window in which nothing
// is outstanding, whatever its size. A request of several records that could never fit is refused
// with [ErrTooLarge] instead.
//
//   - [Window] is credit inside one process: acquire before the work, release when it is settled.
//   - [SendLimit] and [RecvLimit] are the two ends of credit between processes. They exchange a
//     [Grant], the absolute total since the stream began, so a grant that is repeated or overtaken
//     does no harm.
//   - [Queue] is a bounded first-in first-out queue, [Merge] reads several of them fairly.
//
// All types are safe for concurrent use. Waiting is first come, first served, and ends with the
// context. The package starts no goroutines.
package buffer
