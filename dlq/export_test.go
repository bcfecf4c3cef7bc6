package dlq

// What the tests of the envelope and of the subjects reach into.
var (
	Encode        = encode
	Decode        = decode
	ContextSize   = contextSize
	EscapeToken   = escapeToken
	UnescapeToken = unescapeToken
)

// BeginDiscard announces that letters are to be removed and goes no further, as one whose router leads no more by then.
func (s *Store) BeginDiscard(ids ...uint64) error { return s.mark.begin(ids) }
