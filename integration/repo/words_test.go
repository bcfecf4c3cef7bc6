package repo_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// foreign are words of the place where somebody worked, which mean nothing to whoever reads the repository.
// They are spelt in two parts, so that this file does not contain them.
var foreign = []string{"/wo" + "rk/", ".li" + "brary", "/tmp/te" + "am", "/ro" + "ot/", "/ho" + "me/"}

func TestFiles_DoNotMentionTheMachineTheyWereWrittenOn(t *testing.T) {
	for _, path := range tracked(t) {
		content, err := os.ReadFile(filepath.Join(root(t), path))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted here, not yet in git
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range foreign {
			if i := bytes.Index(content, []byte(word)); i >= 0 {
				t.Errorf("%s:%d contains %q", path, 1+bytes.Count(content[:i], []byte{'\n'}), word)
			}
		}
	}
}

// promises are what is said in place of doing it.
var promises = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)

func TestFiles_PromiseNothingForLater(t *testing.T) {
	for _, path := range tracked(t) {
		if !slices.Contains([]string{".go", ".proto", ".sh", ".yaml", ".md"}, filepath.Ext(path)) {
			continue
		}
		content, err := os.ReadFile(filepath.Join(root(t), path))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted here, not yet in git
		}
		if err != nil {
			t.Fatal(err)
		}
		for n, line := range bytes.Split(content, []byte{'\n'}) {
			if word := promises.Find(line); word != nil {
				t.Errorf("%s:%d says %s: do it, or refuse by name what is not there", path, n+1, word)
			}
		}
	}
}

func TestFiles_AreNotBinariesOrHuge(t *testing.T) {
	const limit = 1 << 20
	for _, path := range tracked(t) {
		info, err := os.Stat(filepath.Join(root(t), path))
		if err != nil {
			continue // deleted here, not yet in git
		}
		if info.Size() > limit {
			t.Errorf("%s has %d bytes; generate it, or make it smaller", path, info.Size())
		}
	}
}
