package dsl

import "slices"

// CodeInfo explains one diagnostic code.
type CodeInfo struct {
	// Code is the code as diagnostics show it, such as "CV0107". A code never changes its meaning.
	Code string `json:"code"`
	// Title is the kind of finding in a few words.
	Title string `json:"title"`
	// Explanation says why it is a fault and what to do about it.
	Explanation string `json:"explanation"`
}

// The diagnostic codes: CV00 texts, CV01 fields, CV02 what this version does not have, CV03 pipelines, CV04 expressions, CV05 connectors.
const (
	CodeUnreadable       = "CV0001"
	CodeTooLarge         = "CV0002"
	CodeSyntax           = "CV0003"
	CodeTooDeep          = "CV0004"
	CodeTooManyDocuments = "CV0005"
	CodeAnchor           = "CV0006"
	CodeDuplicateKey     = "CV0007"
	CodeUnsupportedYAML  = "CV0008"
	CodeNotUTF8          = "CV0009"
	CodeNoManifests      = "CV0010"

	CodeMissingField     = "CV0101"
	CodeUnknownField     = "CV0102"
	CodeWrongType        = "CV0103"
	CodeNoValue          = "CV0104"
	CodeAPIVersion       = "CV0105"
	CodeUnknownKind      = "CV0106"
	CodeMissingReference = "CV0107"
	CodeUnknownValue     = "CV0108"
	CodeBadName          = "CV0109"
	CodeOutOfRange       = "CV0110"
	CodeBadEndpoint      = "CV0111"
	CodeExclusive        = "CV0112"
	CodeMisplaced        = "CV0113"
	CodeBadLabel         = "CV0114"

	CodeNotAvailable = "CV0201"

	CodeDuplicateResource = "CV0301"
	CodeDuplicateEntry    = "CV0302"
	CodeUnknownStage      = "CV0303"
	CodeCycle             = "CV0304"
	CodeUnreachable       = "CV0305"
	CodeNoSink            = "CV0306"
	CodeDirection         = "CV0307"
	CodeWrongKind         = "CV0308"

	CodeBadExpression = "CV0401"

	CodeUnknownConnector = "CV0501"
	CodeBadConfig        = "CV0502"
)

var codes = []CodeInfo{
	{CodeUnreadable, "unreadable file", "A path that was given does not exist, is not a regular file, or may not be read. Check the path and its permissions."},
	{CodeTooLarge, "file too large", "A file of manifests is larger than 1 MiB. Split it into several files."},
	{CodeSyntax, "syntax error", "The text is not YAML or JSON. The place is where the reader could not go on; the cause is often a line above: a missing colon, a tab, or wrong indentation."},
	{CodeTooDeep, "nested too deep", "Mappings and lists are nested deeper than 64 levels, which no manifest needs."},
	{CodeTooManyDocuments, "too many documents", "One file holds more than 1000 documents. Split it into several files."},
	{CodeAnchor, "anchor or alias", "Anchors (&name) and aliases (*name) are not read: what a manifest says should stand where it counts, and aliases can grow without bound. Write the value out."},
	{CodeDuplicateKey, "duplicate key", "One mapping has the same key twice, and readers differ in which of the two they take. Remove one."},
	{CodeUnsupportedYAML, "unsupported YAML", "The text uses a tag, a number or a key that has no counterpart in JSON. Write it as a plain string, number, boolean, list or mapping."},
	{CodeNotUTF8, "not UTF-8", "Manifests are UTF-8 text. Save the file in that encoding."},
	{CodeNoManifests, "no manifests", "The paths hold no manifest: directories are searched for *.yaml, *.yml and *.json."},

	{CodeMissingField, "missing field", "A field that the manifest cannot do without is not there."},
	{CodeUnknownField, "unknown field", "There is no field of this name at this place. Unknown fields are refused, because a misspelt one would otherwise be ignored."},
	{CodeWrongType, "wrong type", "The value is of another type than the field, such as a number where a string belongs. Quote strings that look like numbers or booleans."},
	{CodeNoValue, "no value", "The field is there but has no value. Give it one, or remove it."},
	{CodeAPIVersion, "unknown apiVersion", "This build reads manifests of apiVersion conveyor.etl/v1."},
	{CodeUnknownKind, "unknown kind", "The kinds of manifest are Source, Transform, Sink, Pipeline and ConveyorCluster."},
	{CodeMissingReference, "missing reference", "A pipeline names a service for which there is no manifest. That is a warning where the manifest may come later, and the pipeline waits for it; it is an error where the pipeline must run now."},
	{CodeUnknownValue, "unknown value", "The field takes one of a few words, and this is none of them."},
	{CodeBadName, "bad name", "Names and namespaces are DNS-1123 labels: at most 63 lower-case letters, digits and hyphens, with a letter or digit at both ends."},
	{CodeOutOfRange, "out of range", "The number, or the length of the list or text, is outside its bounds."},
	{CodeBadEndpoint, "bad endpoint", "An endpoint is host:port, or unix:///path for a local socket. It has no scheme such as http:// and no path."},
	{CodeExclusive, "one of several fields", "Of these fields exactly one must be there."},
	{CodeMisplaced, "field does not belong here", "The field exists, but not in combination with what else the manifest says."},
	{CodeBadLabel, "bad label", "Label keys and values are at most 63 letters, digits, dots, hyphens and underscores, with a letter or digit at both ends; a key may have a DNS prefix and a slash. Annotations together hold at most 256 KiB."},

	{CodeNotAvailable, "not available in this version", "The word is part of the manifest language, but this version does not do what it asks for. It is refused rather than ignored. Remove it."},

	{CodeDuplicateResource, "duplicate resource", "Two manifests have the same kind, namespace and name, so one would silently replace the other. Rename or remove one."},
	{CodeDuplicateEntry, "duplicate entry", "A list names the same thing twice, such as two stages of one name or one sink twice."},
	{CodeUnknownStage, "unknown stage", "from names a stage that the pipeline does not have."},
	{CodeCycle, "cycle", "Stages feed each other in a circle, so no record could ever leave it. Remove one of the edges shown."},
	{CodeUnreachable, "unreachable stage", "The stage reads from no other, so it would never see a record. Connect it with from, or remove it."},
	{CodeNoSink, "no sink downstream", "What comes out of the stage reaches no sink, so its records could never be delivered. Add a sink stage that reads from it."},
	{CodeDirection, "wrong direction", "A source reads from no stage and has no condition, and a sink feeds no stage."},
	{CodeWrongKind, "wrong kind", "A pipeline names a service of another kind than the place asks for, such as a Source where a Sink belongs."},

	{CodeBadExpression, "bad expression", "A CEL expression does not parse, names something that records do not have, or gives a value of the wrong type."},

	{CodeUnknownConnector, "unknown connector", "None of the ready-made connectors has this kind and type. That is a warning where a program of somebody else may serve it, and an error where the pipeline must run now."},
	{CodeBadConfig, "bad config of a connector", "The connector does not take this config. It says the same when a stage with it opens."},
}

// Codes lists every diagnostic code, in order.
func Codes() []CodeInfo { return slices.Clone(codes) }

// Explain returns the explanation of a code, and false for an unknown one.
func Explain(code string) (CodeInfo, bool) {
	for _, c := range codes {
		if c.Code == code {
			return c, true
		}
	}
	return CodeInfo{}, false
}
