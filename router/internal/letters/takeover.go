package letters

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/dlq/embed"
	"github.com/conveyor-etl/conveyor/internal/atomicfile"
)

// doneDir is what loneDir is called once its letters are in the store of the cluster: a removal that is interrupted leaves nothing that looks like letters.
const doneDir = loneDir + ".migrated"

// old is the store of the time when this router was alone.
type old struct {
	server *embed.Server
	store  *dlq.Store
}

func (o *old) close() error { return errors.Join(o.store.Close(), o.server.Close()) }

// openOld opens the letters of the time when this router was alone; nil when there are none.
func (s *Store) openOld(ctx context.Context) (*old, error) {
	if err := os.RemoveAll(filepath.Join(s.dir, doneDir)); err != nil {
		return nil, fmt.Errorf("remove the letters that were taken over: %w", err)
	}
	dir := filepath.Join(s.dir, loneDir)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	s.log.Info("letters from before the cluster are taken over", "dir", dir)
	server, err := embed.Open(embed.Config{Dir: dir, Logger: s.log})
	if err != nil {
		return nil, fmt.Errorf("take over the letters of %s: %w", dir, err)
	}
	js, err := server.JetStream()
	if err == nil {
		var store *dlq.Store
		if store, err = dlq.Open(ctx, js, dlq.Config{Dir: s.dir, MaxBytes: maxBytes(server.MaxStoreBytes()), Logger: s.log}); err == nil {
			return &old{server: server, store: store}, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("take over the letters of %s: %w", dir, err), server.Close())
}

// removeOld removes the files of that time. First they lose their name, all at once.
func (s *Store) removeOld() error {
	if err := atomicfile.Rename(filepath.Join(s.dir, loneDir), filepath.Join(s.dir, doneDir)); err != nil {
		return fmt.Errorf("remove the letters that were taken over: %w", err)
	}
	if err := os.RemoveAll(filepath.Join(s.dir, doneDir)); err != nil {
		return fmt.Errorf("remove the letters that were taken over: %w", err)
	}
	return nil
}
