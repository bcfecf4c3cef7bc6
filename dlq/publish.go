package dlq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// maxHeaderBytes bounds the headers that publish gives a message.
const maxHeaderBytes = 1 << 10

// Headers of an atomic batch. The server stages the messages of a batch, and stores all or none of them when the last one commits it.
const (
	batchIDHeader       = "Nats-Batch-Id"
	batchSequenceHeader = "Nats-Batch-Sequence"
	batchCommitHeader   = "Nats-Batch-Commit"
)

// The server's error codes that publish tells apart.
const (
	codeAccountResources   jetstream.ErrorCode = 10002
	codeServerResources    jetstream.ErrorCode = 10023
	codeStorageResources   jetstream.ErrorCode = 10047
	codeWrongLastSequence  jetstream.ErrorCode = 10071
	codeStoreFailed        jetstream.ErrorCode = 10077
	codeWrongSequenceInUse jetstream.ErrorCode = 10164
	codeDuplicateInBatch   jetstream.ErrorCode = 10201
)

var (
	// errMoved says that the stream does not end where the index does: nothing was stored, look again.
	errMoved = errors.New("the stream has letters that the index does not know")
	// errRefusedDuplicate says that the server remembers one of the letter ids: nothing was stored.
	errRefusedDuplicate = errors.New("the server remembers a letter of the batch")
)

// pubAck is the server's answer to a publication.
type pubAck struct {
	Error     *jetstream.APIError `json:"error"`
	Stream    string              `json:"stream"`
	Sequence  uint64              `json:"seq"`
	Duplicate bool                `json:"duplicate"`
}

// publish stores the items as one atomic unit, provided that the stream still ends at expect, and returns the ID of the last of them. The
// others have the IDs before it: nothing can come between. salt changes the ids that the server deduplicates on.
func (s *Store) publish(ctx context.Context, items []*item, expect uint64, salt string) (uint64, error) {
	last := len(items) - 1
	batch := ""
	if last > 0 {
		batch = nuid.Next()
	}
	for i, it := range items[:last] {
		if err := s.nc.PublishMsg(message(it, i, batch, expect, salt)); err != nil {
			return 0, s.unavailable("publish", err)
		}
	}
	commit := message(items[last], last, batch, expect, salt)
	if batch != "" {
		commit.Header[batchCommitHeader] = []string{"1"}
	}
	answer, err := s.request(ctx, commit)
	if err != nil {
		return 0, err
	}
	var ack pubAck
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return 0, s.unavailable("read the server's answer", err)
	}
	switch {
	case ack.Error != nil:
		return 0, s.refusal(ctx, ack.Error, items)
	case ack.Duplicate:
		return 0, errRefusedDuplicate
	case ack.Stream != s.cfg.Stream:
		return 0, s.unavailable("publish", fmt.Errorf("stream %q answered instead of %q", ack.Stream, s.cfg.Stream))
	case ack.Sequence != expect+uint64(len(items)):
		return 0, s.unavailable("publish", fmt.Errorf("the server stored %d letters after %d and ended at %d", len(items), expect, ack.Sequence))
	}
	return ack.Sequence, nil
}

func message(it *item, i int, batch string, expect uint64, salt string) *nats.Msg {
	id := it.key.messageID()
	if salt != "" {
		id += "." + salt
	}
	m := &nats.Msg{Subject: it.subject, Data: it.data, Header: nats.Header{jetstream.MsgIDHeader: {id}}}
	if i == 0 {
		m.Header[jetstream.ExpectedLastSeqHeader] = []string{strconv.FormatUint(expect, 10)}
	}
	if batch != "" {
		m.Header[batchIDHeader] = []string{batch}
		m.Header[batchSequenceHeader] = []string{strconv.Itoa(i + 1)}
	}
	return m
}

// refusal turns the server's error into ours. Nothing was stored, except after a failure of the disk, where nobody knows.
func (s *Store) refusal(ctx context.Context, e *jetstream.APIError, items []*item) error {
	switch e.ErrorCode {
	case codeWrongLastSequence, codeWrongSequenceInUse:
		return errMoved
	case codeDuplicateInBatch:
		return errRefusedDuplicate
	case codeAccountResources, codeServerResources, codeStorageResources:
		return fmt.Errorf("%w: %w", ErrFull, e)
	case codeStoreFailed:
		// One code for a full stream and for a failing disk: the stream's own figures tell which.
		info, err := s.info(ctx)
		if err != nil {
			return err
		}
		if full(info, items) {
			return fmt.Errorf("%w: %w", ErrFull, e)
		}
	}
	return s.unavailable("publish", e)
}

// full reports whether the items exceed what the stream has left. What the server adds to a message is estimated generously.
func full(info *jetstream.StreamInfo, items []*item) bool {
	bytes := info.State.Bytes
	for _, it := range items {
		bytes += uint64(len(it.data) + len(it.subject) + maxHeaderBytes)
	}
	return bytes > uint64(info.Config.MaxBytes) || info.State.Msgs+uint64(len(items)) > uint64(info.Config.MaxMsgs)
}
