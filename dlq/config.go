package dlq

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Defaults and limits of a Config.
const (
	// DefaultStream is the default name of the stream.
	DefaultStream = "CONVEYOR_DLQ"
	// DefaultMaxBytes is the default of Config.MaxBytes.
	DefaultMaxBytes = 8 << 30
	// DefaultMaxLetters is the default of Config.MaxLetters.
	DefaultMaxLetters = 4_000_000
	// MaxRecordBytes is the largest record that a letter may hold.
	MaxRecordBytes = 4 << 20
	// MaxEnvelopeBytes is the largest message that the store publishes: the server must accept payloads of this size.
	MaxEnvelopeBytes = MaxRecordBytes + envelopeOverhead
)

// Config says how a store keeps its letters. The zero value of every field but Dir means its default.
type Config struct {
	// Dir is the directory of the high-water mark, a file that says how far letters were acknowledged. It is made if missing. It
	// belongs to one stream for ever and should be on stable storage of its own machine. It is not used with Mark.
	Dir string
	// Mark keeps the high-water mark elsewhere than in Dir, for a stream with copies that several machines open one after the other.
	Mark Mark
	// Replicas is how many servers of a cluster keep the letters; a letter is acknowledged when a majority of them has it. Default 1. The
	// replicas of a stream that exists are raised to it, and never lowered.
	Replicas int
	// Stream names the stream and is the root of its subjects. Default DefaultStream.
	Stream string
	// MaxBytes bounds the bytes that letters take; a full store answers ErrFull. Default DefaultMaxBytes.
	MaxBytes int64
	// MaxLetters bounds the number of letters and with it the memory of the index that recognises duplicates, which is about
	// 50 bytes a letter. Default DefaultMaxLetters.
	MaxLetters int64
	// DuplicateWindow is for how long the server by itself remembers letter ids. The store recognises duplicates without it; it is
	// the second lock on the same door. Default 10 minutes.
	DuplicateWindow time.Duration
	// Timeout bounds one request to the server; an Append makes up to three. Default 10 seconds.
	Timeout time.Duration
	// Logger receives what an operator should know, above all damage and loss. Default: nothing is logged.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration.
func (c *Config) Validate() error {
	var errs []error
	if c.Dir == "" && c.Mark == nil {
		errs = append(errs, errors.New("dlq: Dir is empty"))
	}
	if strings.ContainsAny(c.Stream, ".*> /\\\t\r\n") {
		errs = append(errs, fmt.Errorf("dlq: Stream %q holds a character that a stream name cannot have", c.Stream))
	}
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"MaxBytes", c.MaxBytes},
		{"MaxLetters", c.MaxLetters},
		{"DuplicateWindow", int64(c.DuplicateWindow)},
		{"Timeout", int64(c.Timeout)},
		{"Replicas", int64(c.Replicas)},
	} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("dlq: %s is negative", f.name))
		}
	}
	return errors.Join(errs...)
}

func (c *Config) setDefaults() {
	if c.Stream == "" {
		c.Stream = DefaultStream
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = DefaultMaxBytes
	}
	if c.MaxLetters == 0 {
		c.MaxLetters = DefaultMaxLetters
	}
	if c.DuplicateWindow == 0 {
		c.DuplicateWindow = 10 * time.Minute
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}
