package dlq

// What the tests of the envelope and of the subjects reach into.
var (
	Encode        = encode
	Decode        = decode
	ContextSize   = contextSize
	EscapeToken   = escapeToken
	UnescapeToken = unescapeToken
)
