package yamlsrc

import (
	"bytes"
	"encoding/json"
	"sort"
)

// AppendJSON appends the value as compact JSON with sorted keys: equal values have equal JSON.
func AppendJSON(dst []byte, n *Node) []byte {
	switch n.Kind {
	case Null:
		return append(dst, "null"...)
	case Bool, Int, Float:
		return append(dst, n.Text...)
	case String:
		return appendString(dst, n.Text)
	case List:
		dst = append(dst, '[')
		for i, item := range n.Items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendJSON(dst, item)
		}
		return append(dst, ']')
	}
	order := make([]int, len(n.Keys))
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(a, b int) bool { return n.Keys[order[a]].Text < n.Keys[order[b]].Text })
	dst = append(dst, '{')
	for i, o := range order {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, n.Keys[o].Text), ':')
		dst = AppendJSON(dst, n.Items[o])
	}
	return append(dst, '}')
}

func appendString(dst []byte, s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return append(dst, `""`...)
	}
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}
