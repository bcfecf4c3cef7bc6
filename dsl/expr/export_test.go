package expr

// Scan checks a text as the decoder of payloads does.
func Scan(data []byte) error {
	_, _, err := scanDocument(data, nil)
	return err
}

// Decoded is the payload as JSON, after a way through the values of CEL.
func Decoded(payload []byte) ([]byte, error) {
	s := &state{rec: &Record{Payload: payload, ContentType: "application/json"}}
	return appendJSON(nil, s.payload())
}
