package view

import (
	"fmt"
	"strings"
	"time"

	"github.com/conveyor-etl/conveyor/dsl"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// DeadLetter is a record that failed for good.
type DeadLetter struct {
	APIVersion     string     `json:"apiVersion"`
	Kind           string     `json:"kind"`
	ID             uint64     `json:"id"`
	RecordID       string     `json:"recordId"`
	Namespace      string     `json:"namespace"`
	Pipeline       string     `json:"pipeline"`
	Generation     uint64     `json:"generation"`
	Stage          string     `json:"stage"`
	Edge           string     `json:"edge,omitempty"`
	Source         string     `json:"source,omitempty"`
	Partition      string     `json:"partition,omitempty"`
	Class          string     `json:"class"`
	Code           string     `json:"code"`
	Message        string     `json:"message"`
	Attempts       []Attempt  `json:"attempts"`
	Replays        uint32     `json:"replays"`
	Service        string     `json:"service,omitempty"`
	ServiceVersion string     `json:"serviceVersion,omitempty"`
	StoredAt       *time.Time `json:"storedAt,omitempty"`
	// Key and Payload are base64 in JSON.
	Key         []byte     `json:"key,omitempty"`
	ContentType string     `json:"contentType,omitempty"`
	Headers     []Header   `json:"headers,omitempty"`
	EventTime   *time.Time `json:"eventTime,omitempty"`
	Operation   string     `json:"operation,omitempty"`
	Payload     []byte     `json:"payload"`
}

// Attempt is one try.
type Attempt struct {
	At      *time.Time `json:"at,omitempty"`
	Code    string     `json:"code,omitempty"`
	Message string     `json:"message,omitempty"`
}

// Header is one item of metadata; Value is base64 in JSON.
type Header struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// TypeName is deadletter/ID.
func (d *DeadLetter) TypeName() string { return fmt.Sprintf("deadletter/%d", d.ID) }

// Letter shows a dead letter.
func Letter(l *controlv1.Letter) *DeadLetter {
	r := l.GetRecord()
	d := &DeadLetter{
		APIVersion: dsl.APIVersion, Kind: "DeadLetter",
		ID: l.GetId(), RecordID: r.GetId(), Namespace: l.GetNamespace(), Pipeline: l.GetPipeline(), Generation: l.GetGeneration(),
		Stage: l.GetStage(), Edge: l.GetEdge(), Source: l.GetSource(), Partition: l.GetPartition(),
		Class: word(l.GetClass().String(), "FAILURE_CLASS_"), Code: l.GetCode(), Message: l.GetMessage(), Attempts: []Attempt{},
		Replays: l.GetReplays(), Service: l.GetService(), ServiceVersion: l.GetServiceVersion(), StoredAt: moment(l.GetStoredAt()),
		Key: r.GetKey(), ContentType: r.GetContentType(), Operation: word(r.GetOperation().String(), "OPERATION_"), Payload: r.GetPayload(),
	}
	if d.Payload == nil {
		d.Payload = []byte{}
	}
	for _, a := range l.GetAttempts() {
		d.Attempts = append(d.Attempts, Attempt{At: moment(a.GetAt()), Code: a.GetCode(), Message: a.GetMessage()})
	}
	for _, h := range r.GetHeaders() {
		d.Headers = append(d.Headers, Header{Name: h.GetName(), Value: h.GetValue()})
	}
	if n := r.GetEventTimeUnixNano(); n != 0 {
		at := time.Unix(0, n).UTC()
		d.EventTime = &at
	}
	return d
}

// word is an enum value in lower kebab case; "" for the unspecified one.
func word(value, prefix string) string {
	s := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(value, prefix), "_", "-"))
	if s == "unspecified" {
		return ""
	}
	return s
}
