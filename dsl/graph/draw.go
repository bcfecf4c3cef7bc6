package graph

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// what says in a few words what runs a node.
func (n *Node) what() string {
	switch s := n.Service; {
	case n.Unresolved:
		return "not found"
	case s == nil:
		return string(n.Kind)
	case s.Connector != nil:
		return "connector " + s.Connector.Type
	case s.Filter != "":
		return "cel filter"
	case s.Map != "":
		return "cel map"
	default:
		return "grpc " + s.Endpoint
	}
}

// caption is what an edge says about itself.
func (e Edge) caption() string {
	var parts []string
	if e.When != "" {
		parts = append(parts, "when "+oneLine(e.When))
	}
	if e.BestEffort {
		parts = append(parts, "best-effort")
	}
	return strings.Join(parts, ", ")
}

// oneLine folds white space and drops what would disturb a terminal.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

func clip(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	return string(r[:max(width-1, 0)]) + "…"
}

// DOT draws the graphs in Graphviz's language, each as a cluster.
func DOT(w io.Writer, graphs ...*Graph) error {
	var b bytes.Buffer
	b.WriteString("digraph conveyor {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10];\n")
	shapes := map[Kind]string{Source: "cds", Transform: "box", Sink: "cylinder"}
	for i, g := range graphs {
		id := func(name string) string { return dotQuote(fmt.Sprintf("%d/%s", i, name)) }
		fmt.Fprintf(&b, "  subgraph cluster_%d {\n    label=%s;\n", i, dotQuote(g.Pipeline.String()))
		node := func(id string, n *Node, what, extra string) {
			if n.Kind == Source {
				extra += ", margin=\"0.3,0.1\"" // the point takes some of the room
			}
			if n.Unresolved {
				extra += ", style=\"rounded,dashed\", color=red"
			}
			fmt.Fprintf(&b, "    %s [label=%s, shape=%s%s];\n", id, dotQuote(what+n.Name+"\n"+n.what()), shapes[n.Kind], extra)
		}
		for j := range g.Nodes {
			node(id(g.Nodes[j].Name), &g.Nodes[j], "", "")
		}
		if d := g.DeadLetter; d != nil {
			node(dotQuote(fmt.Sprintf("%d dead letters", i)), d, "dead letters\n", ", style=\"rounded,dashed\"")
		}
		for _, e := range g.Edges {
			fmt.Fprintf(&b, "    %s -> %s", id(e.From), id(e.To))
			var attrs []string
			if c := e.caption(); c != "" {
				attrs = append(attrs, "label="+dotQuote(clip(c, 60)))
			}
			if e.BestEffort {
				attrs = append(attrs, "style=dashed")
			}
			if attrs != nil {
				fmt.Fprintf(&b, " [%s]", strings.Join(attrs, ", "))
			}
			b.WriteString(";\n")
		}
		b.WriteString("  }\n")
	}
	b.WriteString("}\n")
	return write(w, &b)
}

// dotQuote makes a quoted string of Graphviz. Inside it only the quote and the backslash are special; a line break is written as \n.
func dotQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

// Mermaid draws the graphs as a Mermaid flowchart, each as a subgraph.
func Mermaid(w io.Writer, graphs ...*Graph) error {
	var b bytes.Buffer
	b.WriteString("flowchart LR\n")
	shapes := map[Kind][2]string{Source: {"([", "])"}, Transform: {"[", "]"}, Sink: {"[(", ")]"}}
	for i, g := range graphs {
		// Mermaid's ids are words, and some words are its own: numbers are safe.
		ids := make(map[string]string, len(g.Nodes))
		fmt.Fprintf(&b, "  subgraph p%d[%s]\n", i, mermaidQuote(g.Pipeline.String()))
		for j := range g.Nodes {
			n := &g.Nodes[j]
			ids[n.Name] = fmt.Sprintf("p%dn%d", i, j)
			shape := shapes[n.Kind]
			fmt.Fprintf(&b, "    %s%s%s%s\n", ids[n.Name], shape[0], mermaidQuote(n.Name+"\n"+n.what()), shape[1])
			if n.Unresolved {
				fmt.Fprintf(&b, "    style %s stroke:#c00,stroke-dasharray:4\n", ids[n.Name])
			}
		}
		if d := g.DeadLetter; d != nil {
			fmt.Fprintf(&b, "    p%ddead[(%s)]\n    style p%ddead stroke-dasharray:4\n", i, mermaidQuote("dead letters\n"+d.Name+"\n"+d.what()), i)
		}
		for _, e := range g.Edges {
			arrow := "-->"
			if e.BestEffort {
				arrow = "-.->"
			}
			if c := e.caption(); c != "" {
				arrow += "|" + mermaidQuote(clip(c, 60)) + "|"
			}
			fmt.Fprintf(&b, "    %s %s %s\n", ids[e.From], arrow, ids[e.To])
		}
		b.WriteString("  end\n")
	}
	return write(w, &b)
}

// mermaidQuote makes a quoted label, with everything that Mermaid or the page around it could read as markup as an entity.
func mermaidQuote(s string) string {
	r := strings.NewReplacer("#", "#35;", "&", "#amp;", `"`, "#quot;", "<", "#lt;", ">", "#gt;", "`", "#96;", "|", "#124;", "\n", "<br>")
	return `"` + r.Replace(s) + `"`
}

func write(w io.Writer, b *bytes.Buffer) error {
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write drawing: %w", err)
	}
	return nil
}
