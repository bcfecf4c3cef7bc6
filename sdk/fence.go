package sdk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// ErrFenced is wrapped by the error of an opening that came too late: an owner with a newer epoch has opened before.
var ErrFenced = errors.New("a newer owner has opened it")

// maxFenceEntries bounds the epochs that a Fence remembers of what is not open.
const maxFenceEntries = 1 << 14

// Fence lets one owner at a time have a thing that is named by a key: a newer epoch ends the ownership of an older one and waits until it
// is over, and an older epoch is refused. It remembers this no longer than the process lives. The zero Fence is ready; its methods may be
// called at once.
type Fence struct {
	mu      sync.Mutex
	entries map[string]*fenceEntry
}

type fenceEntry struct {
	epoch  Epoch         // the newest that has asked
	owners []*fenceOwner // several only when all of them have joined
}

type fenceOwner struct {
	epoch Epoch
	ctx   context.Context //nolint:containedctx // it is the ownership
	end   context.CancelCauseFunc
	done  chan struct{}
}

// Enter makes the caller the owner of key. The returned context ends with cause [ErrFenced] when a newer epoch, or the same once more,
// enters; the owner then stops and calls leave, once. Enter blocks until an older owner left, or ctx ends.
func (f *Fence) Enter(ctx context.Context, key string, epoch Epoch) (owned context.Context, leave func(), err error) {
	return f.enter(ctx, key, epoch, false)
}

// join is Enter for who shares the thing with others of the same epoch: only older ones have to leave. Whoever calls Enter ends them all.
func (f *Fence) join(ctx context.Context, key string, epoch Epoch) (owned context.Context, leave func(), err error) {
	return f.enter(ctx, key, epoch, true)
}

func (f *Fence) enter(ctx context.Context, key string, epoch Epoch, share bool) (owned context.Context, leave func(), err error) {
	for {
		owner, waitFor, err := f.try(ctx, key, epoch, share)
		if err != nil {
			return nil, nil, err
		}
		if owner != nil {
			return owner.ctx, func() { f.leave(key, owner) }, nil
		}
		select {
		case <-waitFor:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("wait for the older owner of %s: %w", key, context.Cause(ctx))
		}
	}
}

// try returns the new owner, or, when there is one that has to leave, what to wait for.
func (f *Fence) try(ctx context.Context, key string, epoch Epoch, share bool) (*fenceOwner, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	entry := f.entries[key]
	if entry == nil {
		f.makeRoom()
		entry = &fenceEntry{}
		f.entries[key] = entry
	}
	if epoch.Compare(entry.epoch) < 0 {
		return nil, nil, fmt.Errorf("open %s with epoch %s, newest is %s: %w", key, epoch, entry.epoch, ErrFenced)
	}
	entry.epoch = epoch
	var waitFor <-chan struct{}
	for _, o := range entry.owners {
		if !share || o.epoch.Compare(epoch) < 0 {
			o.end(ErrFenced)
			waitFor = o.done
		}
	}
	if waitFor != nil {
		return nil, waitFor, nil
	}
	owner := &fenceOwner{epoch: epoch, done: make(chan struct{})}
	owner.ctx, owner.end = context.WithCancelCause(ctx)
	entry.owners = append(entry.owners, owner)
	return owner, nil, nil
}

func (f *Fence) leave(key string, owner *fenceOwner) {
	f.mu.Lock()
	defer f.mu.Unlock()
	entry := f.entries[key] // which stays while it has owners
	entry.owners = slices.DeleteFunc(entry.owners, func(o *fenceOwner) bool { return o == owner })
	owner.end(nil)
	close(owner.done)
}

// makeRoom forgets one thing that nobody has when there are too many.
func (f *Fence) makeRoom() {
	if f.entries == nil {
		f.entries = map[string]*fenceEntry{}
	}
	if len(f.entries) < maxFenceEntries {
		return
	}
	for key, entry := range f.entries {
		if len(entry.owners) == 0 {
			delete(f.entries, key)
			return
		}
	}
}
