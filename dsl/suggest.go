package dsl

import (
	"fmt"
	"strings"
)

// closest returns the candidate that the word was most likely meant to be, or "".
func closest(word string, candidates []string) string {
	best, bestDist := "", len(word)/3+2
	if bestDist > 4 {
		bestDist = 4
	}
	for _, c := range candidates {
		if c == word {
			continue
		}
		if strings.EqualFold(c, word) {
			return c
		}
		if d := distance(strings.ToLower(word), strings.ToLower(c), bestDist); d < bestDist && d < max(len(word), len(c)) {
			best, bestDist = c, d
		}
	}
	return best
}

func didYouMean(word string) string {
	if word == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", word)
}

// distance is the number of insertions, deletions, replacements and swaps of neighbours between two words, or limit if it is at least that.
func distance(a, b string, limit int) int {
	if abs(len(a)-len(b)) >= limit || len(a) > 253 || len(b) > 253 {
		return limit
	}
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return min(prev[len(b)], limit)
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}

// listOf joins words as "a, b or c".
func listOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
