package sdk

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrFenced is wrapped by the error of an opening that came too late: an owner with a newer epoch has opened before.
var ErrFenced = errors.New("a newer owner has opened it")

// maxFenceEntries bounds the epochs that a Fence remembers of what is not open.
const maxFenceEntries = 1 << 14

// Fence lets one owner at a time have a thing that is named by a key: a newer epoch ends the ownership of an older one and waits until it
// is over, and an older epoch is refused. The zero Fence is ready; its methods may be called at once.
type Fence struct {
	mu      sync.Mutex
	entries map[string]*fenceEntry
}

type fenceEntry struct {
	epoch Epoch
	owner *fenceOwner // nil when nobody has it
}

type fenceOwner struct {
	ctx  context.Context //nolint:containedctx // it is the ownership
	end  context.CancelCauseFunc
	done chan struct{}
}

// Enter makes the caller the owner of key. The returned context ends with cause [ErrFenced] when a newer epoch, or the same once more,
// enters; the owner then stops and calls leave, once. Enter blocks until an older owner left, or ctx ends.
func (f *Fence) Enter(ctx context.Context, key string, epoch Epoch) (owned context.Context, leave func(), err error) {
	for {
		owner, waitFor, err := f.try(ctx, key, epoch)
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

// try returns the new owner, or, when there is an older one, what to wait for.
func (f *Fence) try(ctx context.Context, key string, epoch Epoch) (*fenceOwner, <-chan struct{}, error) {
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
	if entry.owner != nil {
		entry.owner.end(ErrFenced)
		return nil, entry.owner.done, nil
	}
	owner := &fenceOwner{done: make(chan struct{})}
	owner.ctx, owner.end = context.WithCancelCause(ctx)
	entry.owner = owner
	return owner, nil, nil
}

func (f *Fence) leave(key string, owner *fenceOwner) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if entry := f.entries[key]; entry != nil && entry.owner == owner {
		entry.owner = nil
	}
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
		if entry.owner == nil {
			delete(f.entries, key)
			return
		}
	}
}
