package output

import "regexp"

var (
	// What gRPC puts around a cause says nothing to a person. It is taken away for showing only: nothing is decided by these texts.
	wrappings = regexp.MustCompile(`rpc error: code = \w+ desc = |connection error: desc = "(?:transport: Error while dialing: )?((?:[^"\\]|\\.)*)"`)
	nowhere   = regexp.MustCompile(`name resolver error: produced zero addresses`)
)

// Cause is an error's text from elsewhere without what transports put around it.
func Cause(s string) string {
	return nowhere.ReplaceAllString(wrappings.ReplaceAllString(s, "$1"), "the name of its host is not known")
}
