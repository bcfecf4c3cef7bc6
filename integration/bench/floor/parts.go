package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
)

// receiver is the half of a stream that frames come from.
type receiver interface{ RecvMsg(m any) error }

// sender is the half of a stream that they go to.
type sender interface{ SendMsg(m any) error }

// forward passes frames on until from ends, and calls began at the first.
func forward(from receiver, to sender, began func()) error {
	f := &frame{}
	for {
		err := from.RecvMsg(f)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		began()
		if err := to.SendMsg(f); err != nil {
			return err
		}
	}
}

// returnAcks passes acks back upstream until downstream has ended its stream.
func returnAcks(down grpc.ClientStream, up grpc.ServerStream) error {
	var a ack
	for {
		err := down.RecvMsg(&a)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := up.SendMsg(&a); err != nil {
			return err
		}
	}
}

// sidecar passes batches from upstream to downstream, through its transform service if it has one, and acks back.
// It never decodes a record.
func sidecar(c config, up grpc.ServerStream) (usage, error) {
	var m meter
	down, conn, err := open(up.Context(), c.downstream)
	if err != nil {
		return usage{}, err
	}
	defer func() { _ = conn.Close() }()
	acks := make(chan error, 1)
	go func() { acks <- returnAcks(down, up) }()

	if c.service == "" {
		err = forward(up, down, m.start)
	} else {
		err = through(c.service, up, down, m.start)
	}
	if err := errors.Join(err, down.CloseSend()); err != nil {
		return usage{}, err
	}
	if err := <-acks; err != nil {
		return usage{}, fmt.Errorf("acks: %w", err)
	}
	var u usage
	m.stop(&u)
	return u, nil
}

// through passes frames to the service and what it answers downstream, until both have ended.
func through(service string, up grpc.ServerStream, down sender, began func()) error {
	x, conn, err := open(up.Context(), service)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	answers := make(chan error, 1)
	go func() { answers <- forward(x, down, func() {}) }()
	if err := errors.Join(forward(up, x, began), x.CloseSend()); err != nil {
		return err
	}
	return <-answers
}

var (
	debugLevel = []byte(`"level":"debug"`)
	addition   = []byte(`,"env":"prod"}`)
)

// transformer is the users' transform service. While it works on one batch the next ones are received.
func transformer(c config, up grpc.ServerStream) (usage, error) {
	var m meter
	var u usage
	received := make(chan *batch, 2)
	answered := make(chan error, 1)
	go func() {
		answered <- answer(c, up, received, &u)
		for b := range received { // after an error: nobody waits for a full channel
			b.release()
		}
	}()
	var failed error
	for {
		b := newBatch()
		if err := up.RecvMsg(b); err != nil {
			if !errors.Is(err, io.EOF) {
				failed = err
			}
			break
		}
		m.start()
		received <- b
	}
	close(received)
	if err := errors.Join(failed, <-answered); err != nil {
		return usage{}, err
	}
	m.stop(&u)
	return u, nil
}

// answer sends one batch for each received one.
func answer(c config, up sender, received <-chan *batch, u *usage) error {
	arena := make([]byte, 0, c.batch*(c.size+64))
	for in := range received {
		out := newBatch()
		out.id = in.id
		arena = arena[:0]
		for i := range in.records {
			r := in.records[i]
			u.Records++
			if c.transform == "bytes" {
				if bytes.Contains(r.value[:min(len(r.value), 128)], debugLevel) {
					u.Dropped++
					continue
				}
				start := len(arena)
				arena = append(append(arena, r.value[:len(r.value)-1]...), addition...)
				r.value = arena[start:len(arena):len(arena)]
			}
			out.records = append(out.records, r)
		}
		// SendMsg encodes before it returns: only then may the arena and the input be used again.
		err := up.SendMsg(out)
		out.release()
		in.release()
		if err != nil {
			return err
		}
	}
	return nil
}

// sink reads every record and acknowledges each batch.
func sink(_ config, up grpc.ServerStream) (usage, error) {
	var m meter
	var u usage
	sum := 0
	for {
		b := newBatch()
		err := up.RecvMsg(b)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return usage{}, err
		}
		m.start()
		for i := range b.records {
			r := &b.records[i]
			u.Bytes += int64(len(r.value))
			sum += int(r.value[0]) + int(r.key[0])
		}
		u.Records += len(b.records)
		a := ack{b.id}
		b.release()
		if err := up.SendMsg(&a); err != nil {
			return usage{}, err
		}
	}
	if want := u.Records * (int('{') + int('k')); sum != want {
		return usage{}, fmt.Errorf("records arrived changed: checksum %d, want %d", sum, want)
	}
	m.stop(&u)
	return u, nil
}
