package sdk

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// Class says what may be done about a record that failed.
type Class int32

// The classes of failures.
const (
	// ClassRetryable: the same record may succeed later; it is tried again, and every try counts. It is the class of a plain error.
	ClassRetryable = Class(conveyorv1.FailureClass_FAILURE_CLASS_RETRYABLE)
	// ClassPermanent: the record can never succeed; it goes to the dead letters at once.
	ClassPermanent = Class(conveyorv1.FailureClass_FAILURE_CLASS_PERMANENT)
	// ClassUnavailable: the service cannot work now; the record is tried again, and no try counts.
	ClassUnavailable = Class(conveyorv1.FailureClass_FAILURE_CLASS_UNAVAILABLE)
	// classNotTried: an earlier record of the key failed. Only the server gives it.
	classNotTried = Class(conveyorv1.FailureClass_FAILURE_CLASS_NOT_TRIED)
)

// Codes that the server gives when an error has none of its own.
const (
	CodeHandlerError  = "HANDLER_ERROR"  // a plain error of a handler
	CodePositionGone  = "POSITION_GONE"  // see ErrPositionGone
	CodeBadRecord     = "BAD_RECORD"     // a BadRecord without a code
	CodeMixedRoutes   = "MIXED_ROUTES"   // records of one input with different routes
	CodeRecordTooBig  = "RECORD_TOO_BIG" // a record that a handler made is larger than the limit
	CodeNotTried      = "NOT_TRIED"      // an earlier record of the key failed
	reasonConfig      = "INVALID_CONFIG"
	reasonUnknownType = "UNKNOWN_TYPE"
	reasonFenced      = "FENCED"
	reasonProtocol    = "PROTOCOL_VIOLATION"
	reasonStopping    = "SHUTTING_DOWN"
)

// ErrAlready says, as the error of a record in a [Partial] of a sink, that the sink had the record before. It is a success.
var ErrAlready = errors.New("already written")

// ErrPositionGone is what a source wraps when it cannot begin at the position it was given because the data is no longer there. It is a
// hard error: a person decides what happens to the pipeline.
var ErrPositionGone = Permanent(Code(CodePositionGone, errors.New("position gone")))

type classError struct {
	class Class
	err   error
}

func (e *classError) Error() string { return e.err.Error() }
func (e *classError) Unwrap() error { return e.err }

func withClass(class Class, err error) error {
	if err == nil {
		return nil
	}
	return &classError{class, err}
}

// Permanent says that the record can never succeed. It returns nil for nil.
func Permanent(err error) error { return withClass(ClassPermanent, err) }

// Retryable says that the same record may succeed later, as a plain error does. It returns nil for nil.
func Retryable(err error) error { return withClass(ClassRetryable, err) }

// Unavailable says that the service cannot work at all now, for example because its database is down. It returns nil for nil.
func Unavailable(err error) error { return withClass(ClassUnavailable, err) }

type codeError struct {
	code string
	err  error
}

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

// Code gives an error a code for programs, upper snake case, for example DUPLICATE_ROW. It combines with the classes:
// Permanent(Code("DUPLICATE_ROW", err)). It returns nil for nil.
func Code(code string, err error) error {
	if err == nil {
		return nil
	}
	return &codeError{code, err}
}

// Partial is the error of a batch of which only some records failed: their errors by index in the batch. Records that are not in it
// succeeded. Since the records of a key keep their order, a handler that fails a record must not write the later records of that key
// in the batch: it names them too. See [DistinctKeys] for services that cannot hold back.
type Partial map[int]error //nolint:errname // it is written out at every use: sdk.Partial{i: err}

// Error lists the failed records.
func (p Partial) Error() string {
	indexes := make([]int, 0, len(p))
	for i, err := range p {
		if err != nil {
			indexes = append(indexes, i)
		}
	}
	slices.Sort(indexes)
	var b strings.Builder
	fmt.Fprintf(&b, "%d records failed", len(indexes))
	for n, i := range indexes {
		if n == 3 {
			b.WriteString("; ...")
			break
		}
		fmt.Fprintf(&b, "; record %d: %v", i, p[i])
	}
	return b.String()
}

// outside returns an error when p names records that a batch of n does not have.
func (p Partial) outside(n int) error {
	for i := range p {
		if i < 0 || i >= n {
			return fmt.Errorf("the handler reported an error of record %d of a batch of %d: %w", i, n, p[i])
		}
	}
	return nil
}

// BadRecord is what a source yields for input of which it cannot make a record, for example a line that is not JSON. It does not end the
// reading: it takes its place among the records and goes to the dead letters of the source's stage.
type BadRecord struct { //nolint:errname // what it is matters more than that it is an error
	// Record has the position behind the bad input and, as payload, what is known of it. It should be small even when the input is not.
	Record Record
	// Err is why; its code, if it has one, is the code of the dead letter.
	Err error
}

func (e *BadRecord) Error() string { return "bad record: " + e.Err.Error() }
func (e *BadRecord) Unwrap() error { return e.Err }

// Failure is an error as it crosses the wire.
type Failure struct {
	Class   Class
	Code    string
	Message string
}

// FailureOf returns what the server reports for an error of a handler: the outermost class and code in its chain.
func FailureOf(err error) Failure {
	f := Failure{Class: ClassRetryable, Code: CodeHandlerError, Message: err.Error()}
	var class *classError
	if errors.As(err, &class) {
		f.Class = class.class
	}
	var code *codeError
	if errors.As(err, &code) {
		f.Code = code.code
	}
	return f
}

// maxMessage bounds the text of a failure on the wire, in bytes.
const maxMessage = 4 << 10

func (f Failure) proto() *conveyorv1.Failure {
	message := strings.ToValidUTF8(f.Message, "\uFFFD")
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "..."
	}
	return &conveyorv1.Failure{
		Class: conveyorv1.FailureClass(f.Class), Code: strings.ToValidUTF8(f.Code, "\uFFFD"), Message: message,
	}
}
