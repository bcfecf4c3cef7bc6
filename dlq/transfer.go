package dlq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// chunkBytes is how much of a stream is under way at a time.
	chunkBytes = 256 << 10
	// chunkTimeout bounds the wait for one chunk, restoreTimeout that for a server that puts a stream in place which it has.
	chunkTimeout   = 30 * time.Second
	restoreTimeout = 10 * time.Minute
)

type snapshotRequest struct {
	DeliverSubject string `json:"deliver_subject"`
	NoConsumers    bool   `json:"no_consumers"`
	ChunkSize      int    `json:"chunk_size"`
	CheckMessages  bool   `json:"jsck"`
}

type snapshotAnswer struct {
	Error *jetstream.APIError `json:"error"`
	State json.RawMessage     `json:"state"`
}

type restoreRequest struct {
	Config jetstream.StreamConfig `json:"config"`
	State  json.RawMessage        `json:"state"`
}

type restoreAnswer struct {
	Error          *jetstream.APIError `json:"error"`
	DeliverSubject string              `json:"deliver_subject"`
}

// transfer makes a stream of this configuration at another server, with the messages of the store's own: the same numbers, the same times. The other server puts it in
// place as a whole, or not at all.
func (s *Store) transfer(ctx context.Context, to jetstream.JetStream, cfg jetstream.StreamConfig) error {
	inbox := s.nc.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection is gone, and the subscription with it
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	var snapshot snapshotAnswer
	ask := snapshotRequest{DeliverSubject: inbox, NoConsumers: true, ChunkSize: chunkBytes, CheckMessages: true}
	if err := askJSON(ctx, s.nc, s.api("STREAM.SNAPSHOT."+s.cfg.Stream), ask, &snapshot); err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	if snapshot.Error != nil {
		return fmt.Errorf("read the stream: %w", snapshot.Error)
	}
	var restore restoreAnswer
	err = askJSON(ctx, to.Conn(), apiOf(to, "STREAM.RESTORE."+cfg.Name), restoreRequest{Config: cfg, State: snapshot.State}, &restore)
	if err != nil {
		return fmt.Errorf("write the stream: %w", err)
	}
	if restore.Error != nil {
		return fmt.Errorf("write the stream: %w", restore.Error)
	}
	for {
		chunk, err := nextChunk(ctx, sub)
		if err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		if len(chunk) == 0 {
			break
		}
		if err := putChunk(ctx, to.Conn(), restore.DeliverSubject, chunk, chunkTimeout); err != nil {
			return fmt.Errorf("write the stream: %w", err)
		}
	}
	if err := putChunk(ctx, to.Conn(), restore.DeliverSubject, nil, restoreTimeout); err != nil {
		return fmt.Errorf("write the stream: %w", err)
	}
	return nil
}

// nextChunk waits for the next part of a stream and asks for more; an empty one is the end.
func nextChunk(ctx context.Context, sub *nats.Subscription) ([]byte, error) {
	within, cancel := context.WithTimeout(ctx, chunkTimeout)
	defer cancel()
	m, err := sub.NextMsgWithContext(within)
	if err != nil {
		return nil, err
	}
	if len(m.Data) == 0 {
		if status := m.Header.Get("Status"); status != "" && status != "204" {
			return nil, fmt.Errorf("the server ended it: %s %s", status, m.Header.Get("Description"))
		}
		return nil, nil
	}
	if m.Reply != "" {
		return m.Data, m.Respond(nil)
	}
	return m.Data, nil
}

func putChunk(ctx context.Context, nc *nats.Conn, subject string, chunk []byte, timeout time.Duration) error {
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	m, err := nc.RequestWithContext(within, subject, chunk)
	if err != nil {
		return err
	}
	if len(m.Data) == 0 {
		if chunk == nil {
			return errors.New("the server did not say whether it has the stream")
		}
		return nil
	}
	var answer restoreAnswer
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}

func askJSON(ctx context.Context, nc *nats.Conn, subject string, question, answer any) error {
	within, cancel := context.WithTimeout(ctx, chunkTimeout)
	defer cancel()
	b, err := json.Marshal(question)
	if err != nil {
		return err
	}
	m, err := nc.RequestWithContext(within, subject, b)
	if err != nil {
		return err
	}
	return json.Unmarshal(m.Data, answer)
}
