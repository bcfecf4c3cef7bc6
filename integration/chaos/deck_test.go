package chaos_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/conveyor-etl/conveyor/integration/chaos"
)

func TestDeck_DealsEachCardOnceBeforeAnyComesAgain(t *testing.T) {
	cards := []int{0, 1, 2, 3, 4, 5, 6}
	d := chaos.NewDeck(chaos.Generator(1, "faults"), cards...)
	orders := map[string]bool{}
	for round := range 5 {
		var dealt []int
		for range cards {
			dealt = append(dealt, d.Deal())
			left := d.Left()
			if round > 0 && len(left) > 0 || round == 0 && len(left)+len(dealt) != len(cards) {
				t.Errorf("in round %d, with %v dealt, %v were never dealt", round, dealt, left)
			}
			if slices.ContainsFunc(left, func(card int) bool { return slices.Contains(dealt, card) }) {
				t.Errorf("%v were dealt, and it says that %v were not", dealt, left)
			}
		}
		orders[fmt.Sprint(dealt)] = true
		if slices.Sort(dealt); !slices.Equal(dealt, cards) {
			t.Errorf("round %d has %v", round, dealt)
		}
	}
	if len(orders) == 1 {
		t.Error("every round has the same order")
	}
}

func TestDeck_ASeedDecidesTheOrder(t *testing.T) {
	deal := func(seed uint64) (dealt []int) {
		d := chaos.NewDeck(chaos.Generator(seed, "faults"), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
		for range 50 {
			dealt = append(dealt, d.Deal())
		}
		return dealt
	}
	if diff := cmp.Diff(deal(7), deal(7)); diff != "" {
		t.Errorf("one seed makes two orders: %s", diff)
	}
	if cmp.Equal(deal(7), deal(8)) {
		t.Error("two seeds make one order")
	}
}

func TestGenerator_ConcernsHaveNumbersOfTheirOwn(t *testing.T) {
	a, b := chaos.Generator(7, "faults"), chaos.Generator(7, "members")
	if a.Uint64() == b.Uint64() {
		t.Error("two concerns have the same numbers")
	}
}
