// Package version tells which build of Conveyor this is.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// Version is set by release builds:
//
//	go build -ldflags "-X github.com/conveyor-etl/conveyor/internal/version.Version=v1.2.3"
//
// Empty means: take it from the build information that Go records in every binary.
var Version string

// Info describes a build.
type Info struct {
	Version  string `json:"version"`          // v1.2.3, or devel
	Commit   string `json:"commit,omitempty"` // revision, with "-dirty" when files were changed; empty if unknown
	Go       string `json:"go"`               // go1.26.8
	Platform string `json:"platform"`         // linux/amd64
}

// Get returns the description of the running binary.
func Get() Info {
	build, _ := debug.ReadBuildInfo()
	return describe(Version, build)
}

// String returns the version with a short commit, for banners and metrics: "v1.2.3 (0a1b2c3d4e5f)".
func String() string { return Get().String() }

// String returns the version and, if known, the first 12 digits of the commit.
func (i Info) String() string {
	if i.Commit == "" {
		return i.Version
	}
	commit, dirty := strings.CutSuffix(i.Commit, "-dirty")
	commit = commit[:min(len(commit), 12)]
	if dirty {
		commit += "-dirty"
	}
	return fmt.Sprintf("%s (%s)", i.Version, commit)
}

// describe joins what the linker was told with what the compiler recorded; build may be nil.
func describe(stamped string, build *debug.BuildInfo) Info {
	info := Info{Version: stamped, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if build != nil {
		if info.Version == "" && build.Main.Version != "(devel)" {
			info.Version = build.Main.Version
		}
		dirty := false
		for _, s := range build.Settings {
			switch s.Key {
			case "vcs.revision":
				info.Commit = s.Value
			case "vcs.modified":
				dirty = s.Value == "true"
			}
		}
		if dirty && info.Commit != "" {
			info.Commit += "-dirty"
		}
	}
	if info.Version == "" {
		info.Version = "devel"
	}
	return info
}
