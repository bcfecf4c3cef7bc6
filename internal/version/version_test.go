package version_test

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/conveyor-etl/conveyor/internal/version"
	"github.com/google/go-cmp/cmp"
)

func TestDescribe(t *testing.T) {
	setting := func(k, v string) debug.BuildSetting { return debug.BuildSetting{Key: k, Value: v} }
	rev := setting("vcs.revision", "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567")
	cases := []struct {
		name    string
		stamped string
		build   *debug.BuildInfo
		want    version.Info
		str     string
	}{
		{
			name: "nothing known",
			want: version.Info{Version: "devel"}, str: "devel",
		},
		{
			name:    "the stamp wins",
			stamped: "v1.2.3",
			build:   &debug.BuildInfo{Main: debug.Module{Version: "v0.0.1"}, Settings: []debug.BuildSetting{rev}},
			want:    version.Info{Version: "v1.2.3", Commit: rev.Value}, str: "v1.2.3 (0a1b2c3d4e5f)",
		},
		{
			name:  "installed with go install",
			build: &debug.BuildInfo{Main: debug.Module{Version: "v0.4.0"}},
			want:  version.Info{Version: "v0.4.0"}, str: "v0.4.0",
		},
		{
			name:  "built from changed files",
			build: &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{rev, setting("vcs.modified", "true")}},
			want:  version.Info{Version: "devel", Commit: rev.Value + "-dirty"}, str: "devel (0a1b2c3d4e5f-dirty)",
		},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			tc.want.Go, tc.want.Platform = runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH
			got := version.Describe(tc.stamped, tc.build)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if got.String() != tc.str {
				t.Errorf("String() = %q, want %q", got, tc.str)
			}
		})
	}
}
