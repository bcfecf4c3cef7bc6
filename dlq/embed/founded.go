package embed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// countFile is where a server keeps how many servers the cluster has, in metaDir.
	countFile = "peers.idx"
	// logGlob and snapshotGlob are what it keeps of what the servers agreed on.
	logGlob      = "msgs/*.blk"
	snapshotGlob = "snapshots/*"
)

// Founded reports whether the servers of the cluster have agreed on something, as far as this one knows. The first time they must all be there: a server counts those in
// Routes when it is opened, and a majority does not tell those that are new from those that lost what they had. When one of them will never come, close the others, and
// open them with the routes of those that are left: one that has agreed on nothing counts again. Of a server that is alone it is always true.
func (s *Server) Founded() bool {
	if s.secrets == nil {
		return true
	}
	if own, err := s.ns.Jsz(&server.JSzOptions{}); err == nil && own.Meta != nil && own.Meta.Leader != "" {
		return true
	}
	agreed, err := hasAgreed(s.dir)
	return agreed || err != nil
}

// countAnew lets a server count the others when it starts, unless it has agreed on something with those that it counted before. What it has voted for stays.
func countAnew(dir string) error {
	agreed, err := hasAgreed(dir)
	if err == nil && !agreed {
		if err = os.Remove(filepath.Join(dir, jetStreamDir, systemAccount, metaDir, countFile)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("look what the servers of the cluster have agreed on: %w", err)
	}
	return nil
}

// hasAgreed reports whether the directory has something that the servers agreed on, or were told to agree on.
func hasAgreed(dir string) (bool, error) {
	meta := os.DirFS(filepath.Join(dir, jetStreamDir, systemAccount, metaDir))
	for _, glob := range []string{logGlob, snapshotGlob} {
		files, err := fs.Glob(meta, glob)
		if err != nil {
			return false, err
		}
		for _, file := range files {
			if st, err := fs.Stat(meta, file); err == nil && st.Size() > 0 {
				return true, nil
			} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return false, err
			}
		}
	}
	return false, nil
}
