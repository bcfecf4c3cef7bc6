package graph

import "slices"

// Order returns the names of the nodes so that each comes after all that feed it, otherwise in the graph's order. With a cycle, ok is false and the names
// are those that no cycle holds up.
func (g *Graph) Order() (names []string, ok bool) {
	waiting := make(map[string]int, len(g.Nodes))
	for _, e := range g.Edges {
		waiting[e.To]++
	}
	done := make(map[string]bool, len(g.Nodes))
	for progress := true; progress; {
		progress = false
		for _, n := range g.Nodes {
			if done[n.Name] || waiting[n.Name] > 0 {
				continue
			}
			done[n.Name], progress = true, true
			names = append(names, n.Name)
			for _, e := range g.Edges {
				if e.From == n.Name {
					waiting[e.To]--
				}
			}
		}
	}
	return names, len(names) == len(g.Nodes)
}

// Cycles returns one cycle of each group of nodes that feed each other, in the direction of the flow: each node has an edge to the next and the last one
// to the first. It is empty for a DAG.
func (g *Graph) Cycles() [][]string {
	var out [][]string
	for _, group := range g.components() {
		if len(group) > 1 || g.hasEdge(group[0], group[0]) {
			out = append(out, g.shortestCycle(group))
		}
	}
	return out
}

func (g *Graph) hasEdge(from, to string) bool {
	return slices.ContainsFunc(g.Edges, func(e Edge) bool { return e.From == from && e.To == to })
}

// components returns the strongly connected components, by Tarjan's algorithm, in the order of the graph's nodes.
func (g *Graph) components() [][]string {
	t := &tarjan{next: g.successors(), index: map[string]int{}, low: map[string]int{}, onStack: map[string]bool{}}
	for _, n := range g.Nodes {
		if _, seen := t.index[n.Name]; !seen {
			t.visit(n.Name)
		}
	}
	position := make(map[string]int, len(g.Nodes))
	for i, n := range g.Nodes {
		position[n.Name] = i
	}
	for _, c := range t.out {
		slices.SortFunc(c, func(a, b string) int { return position[a] - position[b] })
	}
	slices.SortFunc(t.out, func(a, b []string) int { return position[a[0]] - position[b[0]] })
	return t.out
}

func (g *Graph) successors() map[string][]string {
	next := make(map[string][]string, len(g.Nodes))
	for _, e := range g.Edges {
		next[e.From] = append(next[e.From], e.To)
	}
	return next
}

type tarjan struct {
	next    map[string][]string
	index   map[string]int
	low     map[string]int
	onStack map[string]bool
	stack   []string
	out     [][]string
}

func (t *tarjan) visit(v string) {
	t.index[v], t.low[v] = len(t.index), len(t.index)
	t.stack, t.onStack[v] = append(t.stack, v), true
	for _, w := range t.next[v] {
		if _, seen := t.index[w]; !seen {
			t.visit(w)
			t.low[v] = min(t.low[v], t.low[w])
		} else if t.onStack[w] {
			t.low[v] = min(t.low[v], t.index[w])
		}
	}
	if t.low[v] != t.index[v] {
		return
	}
	i := slices.Index(t.stack, v)
	component := slices.Clone(t.stack[i:])
	t.stack = t.stack[:i]
	for _, w := range component {
		t.onStack[w] = false
	}
	t.out = append(t.out, component)
}

// shortestCycle finds a shortest way from the group's first node back to itself, within the group.
func (g *Graph) shortestCycle(group []string) []string {
	start, next := group[0], g.successors()
	from := map[string]string{}
	queue := []string{start}
	for len(queue) > 0 {
		v := queue[0]
		queue = queue[1:]
		for _, w := range next[v] {
			if w == start {
				way := []string{v}
				for v != start {
					v = from[v]
					way = append(way, v)
				}
				slices.Reverse(way)
				return way
			}
			if _, seen := from[w]; !seen && slices.Contains(group, w) {
				from[w] = v
				queue = append(queue, w)
			}
		}
	}
	return group
}

// Upstream returns the names of all nodes from which the node can be reached, in the graph's order.
func (g *Graph) Upstream(name string) []string {
	next := map[string][]string{}
	for _, e := range g.Edges {
		next[e.To] = append(next[e.To], e.From)
	}
	return g.reach(name, next)
}

// Downstream returns the names of all nodes that can be reached from the node, in the graph's order.
func (g *Graph) Downstream(name string) []string { return g.reach(name, g.successors()) }

func (g *Graph) reach(name string, next map[string][]string) []string {
	seen := map[string]bool{}
	stack := []string{name}
	for len(stack) > 0 {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, w := range next[v] {
			if !seen[w] {
				seen[w] = true
				stack = append(stack, w)
			}
		}
	}
	var out []string
	for _, n := range g.Nodes {
		if seen[n.Name] {
			out = append(out, n.Name)
		}
	}
	return out
}
