package expr

import "time"

// Record is what an expression sees. The caller owns it; a Program keeps nothing of it after it returned.
type Record struct {
	// Payload is the variable value, decoded by ContentType when an expression asks for it.
	Payload []byte
	// ContentType is a media type. JSON types decode to JSON values, text types to a string, everything else is bytes.
	ContentType string
	// Key is the variable key: a string when it is valid UTF-8, else bytes; null when nil.
	Key []byte
	// Headers is the variable headers. Of several headers with one key the last one counts.
	Headers []Header
	// Time is the variable time; the zero time is null.
	Time time.Time
	// Op is the variable op: "create", "update", "delete", "snapshot" or "".
	Op string
	// Meta is the variable meta.
	Meta Meta
}

// Header is one header of a record. Its value is a string when it is valid UTF-8, else bytes.
type Header struct {
	Key   string
	Value []byte
}

// Meta says where a record is. Expressions read it as meta.pipeline, meta.stage, meta.lane and meta.id.
type Meta struct {
	Pipeline string
	Stage    string
	Lane     string
	ID       string
}
