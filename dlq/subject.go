package dlq

import (
	"strings"
)

// emptyToken stands for an empty name, which a subject cannot have.
const emptyToken = "%"

const upperHex = "0123456789ABCDEF"

// escapeToken turns any name into one token of a NATS subject, and different names into different tokens.
func escapeToken(name string) string {
	if name == "" {
		return emptyToken
	}
	plain := 0
	for plain < len(name) && isPlain(name[plain]) {
		plain++
	}
	if plain == len(name) {
		return name
	}
	var b strings.Builder
	b.Grow(len(name) + 8)
	for i := range len(name) {
		if c := name[i]; isPlain(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&0xf])
		}
	}
	return b.String()
}

// unescapeToken is the inverse of escapeToken; what escapeToken cannot have written is returned as it is.
func unescapeToken(token string) string {
	if token == emptyToken {
		return ""
	}
	if !strings.Contains(token, "%") {
		return token
	}
	out := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		if token[i] != '%' {
			out = append(out, token[i])
			continue
		}
		if i+2 >= len(token) {
			return token
		}
		hi, lo := strings.IndexByte(upperHex, token[i+1]), strings.IndexByte(upperHex, token[i+2])
		if hi < 0 || lo < 0 {
			return token
		}
		out = append(out, byte(hi<<4|lo))
		i += 2
	}
	return string(out)
}

func isPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// subjectOf is where a letter of this pipeline and stage is published.
func subjectOf(root, namespace, pipeline, stage string) string {
	return root + "." + escapeToken(namespace) + "." + escapeToken(pipeline) + "." + escapeToken(stage)
}

// filterOf matches the subjects of the letters a query asks for; an empty name matches all.
func filterOf(root string, q *Query) string {
	token := func(name string) string {
		if name == "" {
			return "*"
		}
		return escapeToken(name)
	}
	return root + "." + token(q.Namespace) + "." + token(q.Pipeline) + "." + token(q.Stage)
}

// splitSubject is the inverse of subjectOf.
func splitSubject(root, subject string) (namespace, pipeline, stage string, ok bool) {
	rest, ok := strings.CutPrefix(subject, root+".")
	if !ok {
		return "", "", "", false
	}
	parts := strings.Split(rest, ".")
	if len(parts) != 3 {
		return "", "", "", false
	}
	return unescapeToken(parts[0]), unescapeToken(parts[1]), unescapeToken(parts[2]), true
}
