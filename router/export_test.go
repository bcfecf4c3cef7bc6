package router

import "github.com/conveyor-etl/conveyor/dlq"

// LetterMark is where a router keeps the mark of its letters.
func LetterMark(r *Router) dlq.Mark { return letterMark{r} }
