package wire

import (
	"math/bits"
	"sync"
)

const (
	minClass = 8  // 256 B
	maxClass = 22 // 4 MiB
)

// Pool lends byte slices by size class, powers of two from 256 B to 4 MiB, and does not clear them: gRPC's own pool has five classes and
// clears the whole of one at each loan, which costs more than the copying of a batch.
//
// It implements mem.BufferPool. The zero value is ready; all methods may be called at once.
type Pool struct {
	classes [maxClass + 1]sync.Pool
}

var shared Pool

// Shared returns the pool of this process. One pool serves all connections, since a buffer is usually given back on another one than it
// was filled on.
func Shared() *Pool { return &shared }

// Get lends a slice of length n with unspecified content. The caller owns it until Put.
func (p *Pool) Get(n int) *[]byte {
	class := minClass
	if n > 1<<minClass {
		class = bits.Len(uint(n - 1))
	}
	if class > maxClass {
		b := make([]byte, n)
		return &b
	}
	if b, ok := p.classes[class].Get().(*[]byte); ok {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, 1<<class)
	return &b
}

// Put takes a slice back. Slices of other origins are taken when they fit a class.
func (p *Pool) Put(b *[]byte) {
	c := cap(*b)
	if c < 1<<minClass || c > 1<<maxClass {
		return
	}
	// A slice goes to the largest class that it can serve whole.
	poison((*b)[:c])
	p.classes[bits.Len(uint(c))-1].Put(b)
}
