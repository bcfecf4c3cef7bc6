package control

import (
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// clean returns m with every text in valid UTF-8: m itself when it is, else a copy with replacements. Texts come from services, whose
// messages are decoded without that check; one bad byte would keep all heartbeats, or a dead letter, from ever being sent.
func clean[M proto.Message](m M) M {
	if mend(m.ProtoReflect(), false) {
		return m
	}
	c := proto.Clone(m)
	mend(c.ProtoReflect(), true)
	return c.(M)
}

func cleanAll[M proto.Message](all []M) []M {
	out := make([]M, len(all))
	for i, m := range all {
		out[i] = clean(m)
	}
	return out
}

// mend reports whether all texts of m were valid; with repair it also replaces what is not.
func mend(m protoreflect.Message, repair bool) bool {
	valid := true
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		text, message := field.Kind() == protoreflect.StringKind, field.Kind() == protoreflect.MessageKind
		switch {
		case field.IsMap() || !text && !message:
		case field.IsList():
			list := v.List()
			for i := range list.Len() {
				if message {
					valid = mend(list.Get(i).Message(), repair) && valid
				} else if s := list.Get(i).String(); !utf8.ValidString(s) {
					valid = false
					if repair {
						list.Set(i, replaced(s))
					}
				}
			}
		case message:
			valid = mend(v.Message(), repair) && valid
		case !utf8.ValidString(v.String()):
			valid = false
			if repair {
				m.Set(field, replaced(v.String()))
			}
		}
		return valid || repair
	})
	return valid
}

func replaced(s string) protoreflect.Value {
	return protoreflect.ValueOfString(strings.ToValidUTF8(s, "\uFFFD"))
}
