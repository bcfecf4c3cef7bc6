package repo_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const goVersion = "1.26.0"

// goMod is what `go mod edit -json` prints, as far as the rules need it.
type goMod struct {
	Module    struct{ Path string }
	Go        string
	Toolchain string
	Require   []struct {
		Path, Version string
		Indirect      bool
	}
	Replace []struct {
		Old, New struct{ Path, Version string }
	}
}

func goModOf(t *testing.T, name string) goMod {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json", filepath.Join(root(t), name, "go.mod"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("read %s/go.mod: %v", name, err)
	}
	var m goMod
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// reach returns every sibling that a module may import, also through another one.
func reach(modules []module, name string) []string {
	var out []string
	for _, m := range modules {
		if m.name != name {
			continue
		}
		for _, a := range m.allowed {
			if slices.ContainsFunc(modules, func(m module) bool { return m.name == a }) {
				out = append(append(out, a), reach(modules, a)...)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestModules_BuildAloneAndAsReleased(t *testing.T) {
	modules := table(t)
	versions := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+): *(v\S+)`).FindAllStringSubmatch(read(t, "versions.yaml"), -1) {
		versions[m[1]] = m[2]
	}
	for _, m := range modules {
		mod := goModOf(t, m.name)
		if mod.Module.Path != prefix+m.name {
			t.Errorf("%s is called %s", m.name, mod.Module.Path)
		}
		if mod.Go != goVersion || mod.Toolchain != "" {
			t.Errorf("%s says go %s and toolchain %q, want go %s and none", m.name, mod.Go, mod.Toolchain, goVersion)
		}
		// Without go.work, cmd/go needs a replace line for each sibling in the graph, also for those behind another one.
		var replaced []string
		for _, r := range mod.Replace {
			name := strings.TrimPrefix(r.Old.Path, prefix)
			if r.New.Path != "../"+name || r.Old.Version != "" || r.New.Version != "" {
				t.Errorf("%s replaces %s by %s: importers would not see it", m.name, r.Old.Path, r.New.Path)
			}
			replaced = append(replaced, name)
		}
		slices.Sort(replaced)
		if diff := cmp.Diff(reach(modules, m.name), replaced); diff != "" {
			t.Errorf("%s replaces the wrong siblings (-want +got); run make generate:\n%s", m.name, diff)
		}
		for _, r := range mod.Require {
			if name, ok := strings.CutPrefix(r.Path, prefix); ok && r.Version != versions[name] {
				t.Errorf("%s requires %s %s, but versions.yaml says %q", m.name, name, r.Version, versions[name])
			}
		}
	}
}

// TestModules_AgreeOnTheVersionsTheyAskFor matters because the workspace picks the highest one for everybody,
// which hides that a module, built alone, gets another.
func TestModules_AgreeOnTheVersionsTheyAskFor(t *testing.T) {
	type place struct{ module, version string }
	first := map[string]place{}
	for _, m := range table(t) {
		for _, r := range goModOf(t, m.name).Require {
			if r.Indirect || strings.HasPrefix(r.Path, prefix) {
				continue
			}
			if p, ok := first[r.Path]; !ok {
				first[r.Path] = place{m.name, r.Version}
			} else if p.version != r.Version {
				t.Errorf("%s requires %s %s, %s requires %s", m.name, r.Path, r.Version, p.module, p.version)
			}
		}
	}
}

func TestWorkspace_HasEveryModuleAndNotTheTools(t *testing.T) {
	var want, got []string
	for _, m := range table(t) {
		want = append(want, "./"+m.name)
	}
	for _, m := range regexp.MustCompile(`(?m)^\s+(\./\S+)`).FindAllStringSubmatch(read(t, "go.work"), -1) {
		got = append(got, m[1])
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("go.work (-want +got):\n%s", diff)
	}
	found, err := filepath.Glob(filepath.Join(root(t), "*", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		name := filepath.Base(filepath.Dir(f))
		if name != "tools" && !slices.Contains(want, "./"+name) {
			t.Errorf("the module %s is missing in tools/modules.txt", name)
		}
	}
}

func TestModules_CarryTheirLicences(t *testing.T) {
	for _, licence := range []string{"LICENSE", "LICENSE-APACHE", "LICENSE-MIT"} {
		want := read(t, licence)
		for _, m := range append(table(t), module{name: "tools"}) {
			if got := read(t, m.name, licence); got != want {
				t.Errorf("%s/%s differs from the one at the root", m.name, licence)
			}
		}
	}
	if !strings.Contains(read(t, "LICENSE"), "Apache-2.0 OR MIT") {
		t.Error("LICENSE does not name the licences")
	}
}
