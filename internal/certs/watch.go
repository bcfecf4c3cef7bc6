package certs

import (
	"context"
	"log/slog"
	"time"
)

// remindEvery is how often the end of a certificate is announced.
const remindEvery = 24 * time.Hour

// Watch takes over changed files every interval (zero means [PollInterval]) until ctx ends, and then
// returns nil. Files that cannot be used, such as a certificate whose key is not written yet, are
// reported once for each change, and the certificates in use stay. That these end soon is said once a day.
func (s *Store) Watch(ctx context.Context, interval time.Duration) error {
	if interval <= 0 {
		interval = PollInterval
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	w := watcher{Store: s}
	for {
		w.remind(ctx, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		w.look(ctx)
	}
}

// watcher is a Watch that has begun.
type watcher struct {
	*Store
	// refused is what was reported last. The text of an error alone would not do: some hold the time.
	refused contents
	missing string

	about    end // what reminded and over are about
	reminded time.Time
	over     bool
}

func (w *watcher) look(ctx context.Context) {
	changed, raw, err := w.reload()
	now := w.current()
	if err == nil {
		w.refused, w.missing = contents{}, ""
		if changed {
			w.log.Info("certificates renewed", "file", w.files.Cert, "of", now.whose(), "until", now.end.at, "authorities", len(now.authorities))
		}
		return
	}
	missing := ""
	if raw.cert == "" || raw.key == "" || raw.ca == "" {
		missing = err.Error()
	}
	if raw == w.refused && missing == w.missing {
		return
	}
	w.refused, w.missing = raw, missing
	level := slog.LevelWarn
	if !time.Now().Before(now.end.at) {
		level = slog.LevelError
	}
	w.log.Log(ctx, level, "certificates not renewed, the old ones stay in use", "err", err, "in use until", now.end.at)
}

// remind announces the end of what is in use, and says once that it is over.
func (w *watcher) remind(ctx context.Context, now time.Time) {
	e := w.current().end
	if e != w.about {
		w.about, w.reminded, w.over = e, time.Time{}, false
	}
	if !e.soon(now) {
		return
	}
	over := !now.Before(e.at)
	if !w.reminded.IsZero() && now.Sub(w.reminded) < remindEvery && over == w.over {
		return
	}
	w.reminded, w.over = now, over
	if over {
		w.log.ErrorContext(ctx, "a certificate in use has ended, and others refuse it: renew it now", "file", e.file, "until", e.at)
		return
	}
	w.log.WarnContext(ctx, "a certificate in use ends soon: renew it", "file", e.file, "until", e.at)
}
