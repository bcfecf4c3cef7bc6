package dlq

// Query selects letters. Empty names match every name.
type Query struct {
	// Namespace, Pipeline and Stage select by name; the server does it, so that a narrow query reads only its own letters.
	Namespace, Pipeline, Stage string
	// After leaves out the letters up to and including this ID: the last ID of one page asks for the next.
	After uint64
	// Limit ends the result after so many letters; 0 means no limit.
	Limit int
	// Match selects among the letters that the names select; nil selects all. It must not keep the letter or change it.
	Match func(*Letter) bool
}

// Result is what became of one appended letter.
type Result struct {
	// ID is the number of the letter in the store.
	ID uint64
	// Duplicate says that the store held a letter of this LetterID already, which is the one ID names.
	Duplicate bool
}
