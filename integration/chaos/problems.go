package chaos

import "fmt"

// maxProblems of one kind are told.
const maxProblems = 10

// problems are what was found; no more than a few of each kind.
type problems struct {
	told  []string
	kinds map[string]int
}

func (p *problems) add(kind, format string, args ...any) {
	if p.kinds == nil {
		p.kinds = map[string]int{}
	}
	if p.kinds[kind]++; p.kinds[kind] <= maxProblems {
		p.told = append(p.told, kind+": "+fmt.Sprintf(format, args...))
	}
}
