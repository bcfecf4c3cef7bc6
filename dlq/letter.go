package dlq

import (
	"strconv"
	"strings"
	"time"
)

// Letter is one record that failed for good on one branch, with its error context.
//
// The fields ID, StoredAt and Checksum are set by the store; values that a caller puts there are ignored.
type Letter struct {
	// ID is the number of the letter in its store, counted from 1 and never given twice: what users type.
	ID uint64
	// LetterID is the identity that letters are deduplicated on. [Store.Append] fills it from [Letter.Identity] when it is empty.
	LetterID string
	// RecordID is the id that the source gave the record, extended by the stages it went through. Any bytes.
	RecordID string
	// Namespace and Pipeline name the pipeline.
	Namespace, Pipeline string
	// Generation is the revision of the pipeline's spec under which the record failed.
	Generation uint64
	// Stage is the stage that failed; Edge the link by which the record had come to it, empty where it came by the only one.
	Stage, Edge string
	// Lane names the lane (source and partition) of the record.
	Lane string
	// Class is the class of the last failure, for example "permanent".
	Class string
	// Code is the machine-readable code of the last failure.
	Code string
	// Message is the last failure in words. The store keeps its first 8 KiB.
	Message string
	// Attempts are the tries that failed, oldest first. The store keeps the first and the last 31 of them.
	Attempts []Attempt
	// AttemptCount is how many tries there were, which may be more than Attempts tells of; at least len(Attempts).
	AttemptCount uint32
	// Replays is how often the record had been replayed from the dead letters when this failure happened.
	Replays uint32
	// Service and ServiceVersion name the service that refused the record.
	Service, ServiceVersion string
	// StoredAt is when the store took the letter, by the clock of the store's server.
	StoredAt time.Time
	// Record is the encoded record as it entered the failing stage.
	Record []byte
	// Checksum is the CRC-32C of Record.
	Checksum uint32
}

// Attempt is one try that failed.
type Attempt struct {
	// Time is when the failure was known.
	Time time.Time
	// Code is the machine-readable code of the failure.
	Code string
	// Message is the failure in words. The store keeps its first 1 KiB.
	Message string
}

// Identity returns what makes the letter one of its own: pipeline, generation, stage, edge, replay count and record id. Two branches
// of one record that failed are two letters, and so are a failure and the failure of its replay.
func (l *Letter) Identity() string {
	var b strings.Builder
	b.Grow(len(l.Namespace) + len(l.Pipeline) + len(l.Stage) + len(l.Edge) + len(l.RecordID) + 48)
	for _, part := range [...]string{
		l.Namespace, l.Pipeline, strconv.FormatUint(l.Generation, 10), l.Stage, l.Edge, strconv.FormatUint(uint64(l.Replays), 10),
	} {
		b.WriteString(escapeToken(part))
		b.WriteByte('/')
	}
	// Last, so that it needs no escaping to keep two identities apart.
	b.WriteString(l.RecordID)
	return b.String()
}
