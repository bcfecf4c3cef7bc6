package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// module writes a module outside any workspace with these files.
func module(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	files["m/go.mod"] = "module example.com/m\n\ngo 1.26.0\n"
	for path, content := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const mixed = `package m_test

import "testing"

func TestGood(t *testing.T) {}

func TestTable(t *testing.T) {
	t.Run("one", func(t *testing.T) {})
	t.Run("two", func(t *testing.T) { t.Skip("the moon is missing") })
}
`

func TestRun_TellsHowTheTestsEnded(t *testing.T) {
	cases := []struct {
		name  string
		files map[string]string
		env   map[string]string
		code  int
		want  []string
	}{
		{
			name: "passed and skipped", files: map[string]string{"m/m_test.go": mixed},
			want: []string{"ok  \texample.com/m", "  example.com/m.TestTable/two: the moon is missing", "\nok  3 passed, 0 failed, 1 skipped\n"},
		},
		{
			name: "a skip that fails", files: map[string]string{"m/m_test.go": mixed}, env: map[string]string{"CONVEYOR_FAIL_ON_SKIP": "1"}, code: 1,
			want: []string{"\nFAIL  3 passed, 0 failed, 1 skipped\n"},
		},
		{
			name: "a failed test", files: map[string]string{"m/m_test.go": "package m\n\nimport \"testing\"\n\nfunc TestBad(t *testing.T) { t.Fatal(\"four is not five\") }\n"}, code: 1,
			want: []string{"m_test.go:5: four is not five", "FAIL\texample.com/m", "  example.com/m.TestBad\n", "\nFAIL  0 passed, 1 failed, 0 skipped\n"},
		},
		{
			name: "a process that dies in a test", files: map[string]string{"m/m_test.go": "package m\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestDies(t *testing.T) { t.Log(\"last words\"); os.Exit(3) }\n"}, code: 1,
			want: []string{"FAIL\texample.com/m", "\nFAIL  0 passed, 1 failed, 0 skipped\n"},
		},
		{
			name: "a process that dies after a failed test", files: map[string]string{"m/m_test.go": "package m\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestBad(t *testing.T) { t.Fatal(\"four is not five\") }\n\nfunc TestDies(t *testing.T) { println(\"last words\"); os.Exit(3) }\n"}, code: 1,
			want: []string{"four is not five", "last words", "FAIL\texample.com/m"},
		},
		{
			name: "a build that fails", files: map[string]string{"m/m.go": "package m\n\nvar x int = \"text\"\n", "m/m_test.go": "package m\n"}, code: 1,
			want: []string{"m.go:3", "[build failed]", "\nFAIL  0 passed, 1 failed, 0 skipped\n"},
		},
		{
			name: "nothing to run", files: map[string]string{"m/m.go": "package m\n"}, code: 1,
			want: []string{"no test ran"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root := module(t, c.files)
			var out, errs strings.Builder
			code := run([]string{"-root", root, "-alone", "m"}, func(k string) string { return c.env[k] }, &out, &errs)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, w := range c.want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("no %q", w)
				}
			}
			if t.Failed() {
				t.Logf("printed:\n%s%s", &out, &errs)
			}
		})
	}
}
