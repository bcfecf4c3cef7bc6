package sdk

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
)

// errorDomain is the domain of every ErrorInfo that Conveyor sends.
const errorDomain = "conveyor.etl"

func statusOf(code codes.Code, reason, message string, details ...protoadapt.MessageV1) error {
	st := status.New(code, message)
	all := append([]protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason, Domain: errorDomain}}, details...)
	if with, err := st.WithDetails(all...); err == nil {
		st = with
	}
	return st.Err()
}

func statusUnknownType(format string, args ...any) error {
	return statusOf(codes.InvalidArgument, reasonUnknownType, fmt.Sprintf(format, args...))
}

func statusProtocol(format string, args ...any) error {
	return statusOf(codes.InvalidArgument, reasonProtocol, fmt.Sprintf(format, args...))
}

func statusStopping() error {
	return statusOf(codes.Unavailable, reasonStopping, "the service is shutting down")
}

// statusOfError turns the error of an open, or one that ended a source, into a status.
func statusOfError(err error) error {
	var config *ConfigError
	var class *classError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &config):
		bad := &errdetails.BadRequest{}
		for _, f := range config.Faults {
			bad.FieldViolations = append(bad.FieldViolations,
				&errdetails.BadRequest_FieldViolation{Field: f.Field, Description: f.Message, Reason: reasonConfig})
		}
		return statusOf(codes.InvalidArgument, reasonConfig, err.Error(), bad)
	case errors.Is(err, ErrFenced):
		return statusOf(codes.FailedPrecondition, reasonFenced, err.Error())
	case errors.As(err, &class):
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	default:
		if _, ok := status.FromError(err); ok {
			return err
		}
	}
	f := FailureOf(err)
	code := codes.Aborted
	switch f.Class {
	case ClassPermanent:
		code = codes.FailedPrecondition
	case ClassUnavailable:
		code = codes.Unavailable
	}
	return statusOf(code, f.Code, err.Error())
}
