package control

import (
	"context"
	"fmt"
	"math"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// The methods in this file serve the engine. They wait for a session, and go on under the next one when the session ends meanwhile: epochs,
// not sessions, say whose checkpoints count. An error that matches client.ErrUnreachable says that no router answered for a while; the
// caller asks again when it wants to, with what is newest then.

// ReadCheckpoints returns the checkpoints of a source stage. pipeline is namespace/name.
func (s *Session) ReadCheckpoints(ctx context.Context, pipeline, sourceStage string) (*controlv1.ReadCheckpointsResponse, error) {
	var resp *controlv1.ReadCheckpointsResponse
	err := s.under(ctx, func(session *controlv1.Session) (err error) {
		resp, err = s.client.ReadCheckpoints(ctx, session, pipeline, sourceStage)
		return err
	})
	return resp, err
}

// ReportCheckpoints stores checkpoints and returns what became of each, in order.
func (s *Session) ReportCheckpoints(ctx context.Context, checkpoints []*controlv1.Checkpoint) ([]controlv1.CheckpointResult, error) {
	var results []controlv1.CheckpointResult
	err := s.under(ctx, func(session *controlv1.Session) (err error) {
		results, err = s.client.ReportCheckpoints(ctx, session, checkpoints)
		return err
	})
	return results, err
}

// StoreDeadLetters stores letters durably and returns the place of each, in order. Letters that the store has already are duplicates.
// Texts in a letter that are not UTF-8 are mended.
func (s *Session) StoreDeadLetters(ctx context.Context, letters []*controlv1.Letter) ([]*controlv1.StoredLetter, error) {
	letters = cleanAll(letters)
	var stored []*controlv1.StoredLetter
	err := s.under(ctx, func(session *controlv1.Session) (err error) {
		stored, err = s.client.StoreDeadLetters(ctx, session, letters)
		return err
	})
	return stored, err
}

// ReadLetters returns up to limit letters of a pipeline with ids above after, in the order of their ids.
func (s *Session) ReadLetters(ctx context.Context, namespace, pipeline string, after uint64, limit int) ([]*controlv1.Letter, error) {
	filter := &controlv1.LetterFilter{Namespace: namespace, Pipeline: pipeline}
	var letters []*controlv1.Letter
	if limit <= 0 {
		return nil, nil
	}
	for letter, err := range s.client.LettersAfter(ctx, filter, after, uint32(min(limit, math.MaxInt32))) {
		if err != nil {
			return letters, fmt.Errorf("read the letters of %s/%s after %d: %w", namespace, pipeline, after, err)
		}
		letters = append(letters, letter)
	}
	return letters, nil
}
