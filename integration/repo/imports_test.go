package repo_test

import (
	"slices"
	"strings"
	"testing"
)

func TestModules_ImportOnlyTheSiblingsTheyMay(t *testing.T) {
	allowed := map[string]module{}
	for _, m := range table(t) {
		allowed[m.name] = m
	}
	for _, s := range sources(t) {
		m := allowed[s.module]
		for _, imported := range s.imports() {
			rest, ok := strings.CutPrefix(imported, prefix)
			if !ok {
				continue
			}
			sibling, _, _ := strings.Cut(rest, "/")
			if sibling != s.module && !slices.Contains(m.allowed, sibling) {
				t.Errorf("%s imports %s, but %s may import only %v: %s", s.path, imported, s.module, m.allowed, m.why)
			}
		}
	}
}

// budget says where a dependency may be imported, so that nobody links it who does not need it.
var budget = []struct {
	dependency string   // an import path or the beginning of one
	where      []string // folders; nil means nowhere
	why        string
}{
	{"cel.dev/", []string{"dsl/expr"}, "one place decides what an expression means"},
	{"github.com/google/cel-go", nil, "the module moved to cel.dev/cel-go"},
	{"github.com/hashicorp/raft", []string{"raftstore"}, "nobody else needs to know which consensus library this is"},
	{"go.etcd.io/bbolt", []string{"raftstore"}, "nobody else needs to know how the log is stored"},
	{"github.com/nats-io/", []string{"dlq"}, "nobody else needs to know how dead letters are stored"},
	{"github.com/spf13/", []string{"cli"}, "the daemons are configured by the environment, and libraries by values"},
	{"github.com/aws/", nil, "no module needs it"},
	{"k8s.io/", []string{"operator"}, "Conveyor runs without Kubernetes"},
	{"sigs.k8s.io/", []string{"operator"}, "Conveyor runs without Kubernetes"},
	{"github.com/prometheus/", []string{"internal", "router", "sidecar", "connectors", "operator", "cli", "integration"}, "libraries report to whoever uses them, and leave the registry to the binaries"},
	{"google.golang.org/grpc", []string{"protos", "internal", "raftstore", "client", "sdk", "connectors", "router", "sidecar", "operator", "console", "cli", "integration"}, "manifests, credit windows and dead letters have no network"},
	{"google.golang.org/protobuf", []string{"protos", "internal", "raftstore", "client", "sdk", "connectors", "router", "sidecar", "operator", "console", "cli", "integration"}, "manifests, credit windows and dead letters have no wire format"},
	{"gopkg.in/yaml", nil, "go.yaml.in/yaml/v4 is the one YAML library"},
	{"github.com/goccy/go-yaml", nil, "go.yaml.in/yaml/v4 is the one YAML library"},
	{"github.com/stretchr/testify", nil, "tests compare with go-cmp"},
	{"github.com/pkg/errors", nil, "the standard library wraps errors"},
	{"github.com/sirupsen/logrus", nil, "slog"},
	{"go.uber.org/zap", nil, "slog"},
	{"C", nil, "the products are built without cgo"},
}

func TestDependencies_StayWhereTheyAreNeeded(t *testing.T) {
	for _, s := range sources(t) {
		for _, imported := range s.imports() {
			for _, rule := range budget {
				if imported != rule.dependency && !strings.HasPrefix(imported, strings.TrimSuffix(rule.dependency, "/")+"/") {
					if !strings.HasPrefix(imported, rule.dependency) || rule.dependency == "C" {
						continue
					}
				}
				inside := func(folder string) bool { return s.dir() == folder || strings.HasPrefix(s.dir(), folder+"/") }
				if !slices.ContainsFunc(rule.where, inside) {
					t.Errorf("%s imports %s, which belongs in %v: %s", s.path, imported, rule.where, rule.why)
				}
			}
		}
	}
}

// inTests is what tests of a module with the standard library only may use.
var inTests = []string{"go.uber.org/goleak", "github.com/google/go-cmp/", "pgregory.net/rapid"}

func TestBuffer_NeedsTheStandardLibraryOnly(t *testing.T) {
	for _, s := range sources(t) {
		if s.module != "buffer" {
			continue
		}
		for _, imported := range s.imports() {
			first, _, _ := strings.Cut(imported, "/")
			own := strings.HasPrefix(imported, prefix+"buffer")
			helper := s.test && slices.ContainsFunc(inTests, func(p string) bool { return strings.HasPrefix(imported, p) })
			if strings.Contains(first, ".") && !own && !helper {
				t.Errorf("%s imports %s: whoever uses credit windows must get no third party with them", s.path, imported)
			}
		}
	}
}
