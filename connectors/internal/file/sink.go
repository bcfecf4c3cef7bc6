package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/conveyor-etl/conveyor/sdk"
)

// SinkConfig is the config of the sink.
type SinkConfig struct {
	Path     string   `conveyor:"required" doc:"the file to write; it has the ending .partial until the pipeline is complete"`
	Format   string   `conveyor:"enum=ndjson|csv|lines" default:"ndjson" doc:"ndjson: payloads are JSON, one to a line; csv: payloads are JSON objects, one to a record; lines: payloads are text, one to a line"`
	Columns  []string `doc:"csv: the columns, in order; those of the first record unless said otherwise"`
	RecordID string   `json:"recordId" doc:"ndjson and csv: the field or column that gets the id of the record"`
}

// Validate checks what fits together.
func (c SinkConfig) Validate() error {
	e := &sdk.ConfigError{}
	fault := func(field, message string) {
		e.Faults = append(e.Faults, sdk.ConfigFault{Field: field, Message: message})
	}
	if len(c.Columns) > 0 && c.Format != formatCSV {
		fault("columns", "is only for the format csv")
	}
	for i, name := range c.Columns {
		if slices.Contains(c.Columns[:i], name) {
			fault("columns", fmt.Sprintf("has %q twice", name))
		}
	}
	if c.RecordID != "" && c.Format == formatLines {
		fault("recordId", "is not for the format lines")
	}
	if len(e.Faults) > 0 {
		return e
	}
	return nil
}

// Sink returns the sink "file".
func Sink() sdk.Ability {
	return sdk.OpenSink("file", func(_ context.Context, o sdk.Opening, cfg SinkConfig) (sdk.Writer, error) {
		path, err := canonical(cfg.Path)
		if err != nil {
			return nil, err
		}
		w := &writer{path: path, cfg: cfg, encode: newEncoder(cfg)}
		if err := w.open(o); err != nil {
			return nil, errors.Join(err, w.Close())
		}
		return w, nil
	}, sdk.OneWriter()) // streams of other stages find the claim taken
}

// canonical returns the one name that a file has whatever symbolic links lead to its directory.
func canonical(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("make %s absolute: %w", path, err)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if errors.Is(err, fs.ErrNotExist) {
		return "", sdk.Unavailable(sdk.Code("NO_DIRECTORY", fmt.Errorf("write %s: the directory does not exist", path)))
	}
	if err != nil {
		return "", ioError(filepath.Dir(abs), "find", err)
	}
	return filepath.Join(dir, filepath.Base(abs)), nil
}

// writer appends to PATH.partial. What was written since the last Sync is not acknowledged.
type writer struct {
	path   string
	cfg    SinkConfig
	claim  *claim
	encode *encoder

	file    *os.File // PATH.partial; nil while there is none, or when it must be opened again
	size    int64    // of what is good
	synced  int64    // of what is durable
	torn    bool     // there may be something behind size
	newFile bool     // the directory entry is not durable
}

func (w *writer) partial() string { return w.path + ".partial" }

// open proves that the file is ours and takes up what an earlier life left.
func (w *writer) open(o sdk.Opening) error {
	var err error
	if w.claim, err = takeClaim(w.path, o); err != nil {
		return err
	}
	finished, err := exists(w.path)
	if err != nil {
		return err
	}
	begun, err := exists(w.partial())
	if err != nil {
		return err
	}
	if err := w.claim.check(o, finished, begun); err != nil {
		return err
	}
	if w.claim.beginsAnew(o) {
		if err := w.removeOwn(finished, begun); err != nil {
			return err
		}
		begun = false
	}
	if err := w.claim.store(o); err != nil {
		return err
	}
	if begun {
		return w.takeUp()
	}
	return nil
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, ioError(path, "stat", err)
	}
	return true, nil
}

func (w *writer) removeOwn(finished, begun bool) error {
	if finished {
		if err := os.Remove(w.path); err != nil {
			return ioError(w.path, "remove", err)
		}
	}
	if begun {
		if err := os.Remove(w.partial()); err != nil {
			return ioError(w.partial(), "remove", err)
		}
	}
	return syncDir(w.path)
}

// takeUp opens the partial file and cuts off a torn last record.
func (w *writer) takeUp() error {
	f, err := os.OpenFile(w.partial(), os.O_RDWR, 0)
	if err != nil {
		return ioError(w.partial(), "open", err)
	}
	w.file = f
	good, err := lastRecordEnd(f, w.cfg.Format == formatCSV)
	if err != nil {
		return ioError(w.partial(), "read", err)
	}
	w.size, w.synced, w.torn = good, good, true
	if err := w.mend(); err != nil {
		return err
	}
	if w.cfg.Format == formatCSV {
		return w.encode.readHeader(f, w.partial())
	}
	return nil
}

// mend cuts off whatever lies behind the good part.
func (w *writer) mend() error {
	if !w.torn {
		return nil
	}
	if err := w.file.Truncate(w.size); err != nil {
		return ioError(w.partial(), "truncate", err)
	}
	w.torn = false
	return nil
}

// prepare sees to it that there is a partial file to append to. A finished file of ours becomes one again.
func (w *writer) prepare() error {
	if w.file != nil {
		return w.mend()
	}
	finished, err := exists(w.path)
	if err != nil {
		return err
	}
	if finished {
		if err := w.claim.checkFinished(); err != nil {
			return err
		}
		if err := os.Rename(w.path, w.partial()); err != nil {
			return ioError(w.path, "rename", err)
		}
		w.newFile = true
		return w.takeUp()
	}
	f, err := os.OpenFile(w.partial(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return ioError(w.partial(), "create", err)
	}
	w.file, w.size, w.synced, w.newFile = f, 0, 0, true
	return nil
}

func (w *writer) Write(_ context.Context, batch []sdk.Record) error {
	if err := w.prepare(); err != nil {
		return err
	}
	data, failed := w.encode.batch(batch, w.size == 0)
	if len(data) == 0 {
		return partialOrNil(failed)
	}
	w.torn = true
	if _, err := w.file.WriteAt(data, w.size); err != nil {
		// What was failed for good stays so, and the others come again.
		return w.all(len(batch), failed, errors.Join(ioError(w.partial(), "write", err), w.mend()))
	}
	w.torn = false
	w.size += int64(len(data))
	return partialOrNil(failed)
}

func partialOrNil(failed sdk.Partial) error {
	if len(failed) == 0 {
		return nil
	}
	return failed
}

func (w *writer) all(n int, failed sdk.Partial, err error) error {
	w.encode.forgetHeader(w.size == 0)
	if len(failed) == 0 {
		return err
	}
	for i := range n {
		if failed[i] == nil {
			failed[i] = err
		}
	}
	return failed
}

// Sync makes what was written durable. When that errs, the file is cut back to what is: the kernel may have dropped the rest, and it
// comes again.
func (w *writer) Sync(context.Context) error {
	if w.file == nil || w.synced == w.size && !w.newFile {
		return nil
	}
	err := w.file.Sync()
	if err == nil && w.newFile {
		err = syncDir(w.path)
	}
	if err != nil {
		w.size, w.torn = w.synced, true
		w.encode.forgetHeader(w.size == 0)
		return errors.Join(ioError(w.partial(), "sync", err), w.mend())
	}
	w.synced, w.newFile = w.size, false
	return nil
}

// Complete renames the file into place. Without any record there is an empty file, since the pipeline did run.
func (w *writer) Complete(ctx context.Context) error {
	if w.file == nil {
		if finished, err := exists(w.path); err != nil || finished {
			return err
		}
	}
	if err := w.prepare(); err != nil {
		return err
	}
	if w.size == 0 {
		header := w.encode.header()
		if _, err := w.file.WriteAt(header, 0); err != nil {
			w.torn = true
			return errors.Join(ioError(w.partial(), "write", err), w.mend())
		}
		w.size = int64(len(header))
	}
	w.newFile = true
	if err := w.Sync(ctx); err != nil {
		return err
	}
	if finished, err := exists(w.path); err != nil {
		return err
	} else if finished {
		return sdk.Permanent(sdk.Code("NOT_OURS", fmt.Errorf("rename %s: %s has appeared and is not ours; move it away", w.partial(), w.path)))
	}
	if err := w.claim.finish(w.file, w.size); err != nil {
		return err
	}
	if err := os.Rename(w.partial(), w.path); err != nil {
		return ioError(w.partial(), "rename", err)
	}
	f := w.file
	w.file = nil
	return errors.Join(syncDir(w.path), f.Close())
}

// Close leaves the file as it is: what was not acknowledged is a torn tail, or comes again.
func (w *writer) Close() error {
	var errs []error
	if w.file != nil {
		errs = append(errs, w.file.Close())
		w.file = nil
	}
	if w.claim != nil {
		errs = append(errs, w.claim.release())
		w.claim = nil
	}
	return errors.Join(errs...)
}

func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return ioError(filepath.Dir(path), "open", err)
	}
	err = dir.Sync()
	if closeErr := dir.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return ioError(filepath.Dir(path), "sync", err)
	}
	return nil
}
