package chaos

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
)

// Generator returns the random numbers of one concern of a run. They depend on the seed alone: not on what is drawn for another concern, and not on what a system answers.
func Generator(seed uint64, concern string) *rand.Rand {
	return rand.New(rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%d %s", seed, concern))))
}

// Deck deals cards in a random order. When all were dealt it is shuffled and begins again, so that none comes twice before each came once.
type Deck[T any] struct {
	random *rand.Rand
	cards  []T
	// next is the place of the card that is dealt next, and rounds how often all were dealt.
	next, rounds int
}

// NewDeck returns a deck of these cards, which are one at least.
func NewDeck[T any](random *rand.Rand, cards ...T) *Deck[T] {
	d := &Deck[T]{random: random, cards: slices.Clone(cards)}
	d.shuffle()
	return d
}

func (d *Deck[T]) shuffle() {
	d.random.Shuffle(len(d.cards), func(i, j int) { d.cards[i], d.cards[j] = d.cards[j], d.cards[i] })
}

// Deal returns the next card.
func (d *Deck[T]) Deal() T {
	if d.next == len(d.cards) {
		d.next = 0
		d.rounds++
		d.shuffle()
	}
	card := d.cards[d.next]
	d.next++
	return card
}

// Left are the cards that were never dealt.
func (d *Deck[T]) Left() []T {
	if d.rounds > 0 {
		return nil
	}
	return slices.Clone(d.cards[d.next:])
}
