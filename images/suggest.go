package images

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// suggestKey says what an unknown key was probably meant to be: a near one of the same section, the same one of
// another section, or else which keys there are.
func suggestKey(path, key string, keys []string) string {
	if near, ok := closest(key, keys); ok {
		return fmt.Sprintf("did you mean %q?", near)
	}
	var elsewhere []string
	for top := range fields(reflect.TypeFor[Spec]()) {
		if top.key != path && slices.Contains(keysOf(top.typ), key) {
			elsewhere = append(elsewhere, top.key)
		}
	}
	if len(elsewhere) > 0 {
		return fmt.Sprintf("did you mean %q of section %s?", key, strings.Join(elsewhere, " or "))
	}
	return "the keys here are " + strings.Join(keys, ", ")
}

// closest finds the word that a mistyped one most probably was.
func closest(word string, words []string) (string, bool) {
	best, at := "", 1+max(1, len(word)/3)
	for _, w := range words {
		if d := distance(strings.ToLower(word), w); d < at {
			best, at = w, d
		}
	}
	return best, best != ""
}

// nearest are the n words most like one, for a table too long to print.
func nearest(word string, words []string, n int) []string {
	sorted := slices.Clone(words)
	slices.SortStableFunc(sorted, func(a, b string) int {
		return distance(strings.ToLower(word), strings.ToLower(a)) - distance(strings.ToLower(word), strings.ToLower(b))
	})
	return firstOf(sorted, n)
}

// distance counts insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b))
	}
	var two, one []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		two, one, row = one, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(one[j]+cost, one[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], two[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
