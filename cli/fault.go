package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/internal/lifecycle"
	"github.com/conveyor-etl/conveyor/internal/lock"
	"github.com/conveyor-etl/conveyor/router"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitInvalid     = 2
	exitUnreachable = 3
	exitDenied      = 4
	exitInterrupted = 130
)

// fault is an error whose exit code, code and fix are decided where it arises.
type fault struct {
	exit int
	// code for programs, upper snake case.
	code string
	err  error
	// fix says what to do; it may be empty.
	fix string
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// usage is the error of a wrong command line.
func usage(cmd *cobra.Command, format string, args ...any) *fault {
	return &fault{exit: exitInvalid, code: "USAGE", err: fmt.Errorf(format, args...), fix: fmt.Sprintf("`%s --help` shows how it is used", cmd.CommandPath())}
}

// quiet is an error of which everything was said already.
type quiet struct{ exit int }

func (quiet) Error() string { return "" }

// report says on standard error what went wrong, and returns the exit code.
func (a *app) report(ctx context.Context, err error) int {
	var q quiet
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &q):
		return q.exit
	}
	f := a.diagnose(ctx, err)
	text := strings.TrimRight(f.err.Error(), "\n")
	fmt.Fprintf(a.env.Stderr, "%s %s\n", a.err.Red("error["+f.code+"]:"), strings.ReplaceAll(text, "\n", "\n  "))
	if f.fix != "" {
		fmt.Fprintf(a.env.Stderr, "  %s %s\n", a.err.Bold("= help:"), f.fix)
	}
	return f.exit
}

// diagnose finds the exit code, code and fix of an error.
func (a *app) diagnose(ctx context.Context, err error) *fault {
	var f *fault
	var wire *client.Error
	var held *lock.HeldError
	switch {
	case errors.As(err, &f):
		return f
	case ctx.Err() != nil && errors.Is(err, context.Cause(ctx)), errors.Is(err, context.Canceled):
		code := exitInterrupted
		if c := lifecycle.SignalExitCode(ctx); c != 0 {
			code = c
		}
		return &fault{exit: code, code: "INTERRUPTED", err: errors.New("interrupted")}
	case errors.As(err, &held):
		return &fault{exit: exitFailed, code: "DATA_LOCKED", err: err}
	case router.CodeOf(err) != "":
		return &fault{exit: exitFailed, code: string(router.CodeOf(err)), err: err}
	case errors.Is(err, client.ErrInsecure):
		return &fault{exit: exitInvalid, code: "INSECURE", err: err}
	case errors.Is(err, client.ErrOutcomeUnknown):
		return &fault{exit: exitUnreachable, code: "OUTCOME_UNKNOWN", err: err, fix: "look with `conveyor get` what is there now, and give the command again if need be"}
	case errors.Is(err, client.ErrUnreachable):
		return &fault{exit: exitUnreachable, code: "UNREACHABLE", err: err, fix: a.reachHint(err)}
	case errors.As(err, &wire):
		return a.diagnoseAnswer(wire, err)
	case errors.Is(err, context.DeadlineExceeded):
		return &fault{exit: exitUnreachable, code: "TIMEOUT", err: err, fix: "the server is there but did not finish in time; try again"}
	case errors.Is(err, client.ErrInvalid):
		return &fault{exit: exitInvalid, code: "INVALID", err: err}
	default:
		return &fault{exit: exitFailed, code: "FAILED", err: err}
	}
}

func (a *app) reachHint(err error) string {
	switch {
	case a.target == "":
		return ""
	case a.files.Enabled():
		return a.tlsHint(err.Error())
	case strings.Contains(err.Error(), "server preface"):
		// Something listens there, and did not speak gRPC in the clear.
		return "the server may want certificates: name them with --tls-cert-file, --tls-key-file and --tls-ca-file, or TLS_CERT_FILE and so on"
	}
	return startOne
}

const startOne = "start a server with `conveyor dev`, or name another with --server HOST:PORT or CONVEYOR_SERVER"

// tlsHint finds out which of two certificates the other side, or this one, does not take. gRPC hands on nothing but the text.
func (a *app) tlsHint(text string) string {
	for _, known := range []struct {
		hint  string
		signs []string
	}{
		{"the server has no certificates: it takes calls from its own machine, without TLS_CERT_FILE and so on", []string{"does not look like a TLS handshake"}},
		{"the server's certificate is of another authority than those in " + a.files.CA + ": use the certificates that were made for this cluster, or name its routers with --server", []string{
			"signed by unknown authority",
		}},
		{"the server's certificate is not valid now: make it anew with `conveyor cluster init DIR --renew`, or set the clock of this machine right", []string{"expired or is not yet valid"}},
		{"the server's certificate is for other names: use one of them in --server, or make it anew with this one as --name", []string{
			"x509: certificate is valid for", "x509: cannot validate certificate for", "not valid for any names",
		}},
		{"that is no router of this cluster: look at the address in --server", []string{"was expected there", "names no identity"}},
		{"the server does not take the certificate in " + a.files.Cert + ": it is of another authority than the server's, or not valid by the server's clock", []string{
			"remote error: tls", "server preface", "broken pipe", "connection reset",
		}},
	} {
		if slices.ContainsFunc(known.signs, func(sign string) bool { return strings.Contains(text, sign) }) {
			return known.hint
		}
	}
	return startOne
}

func (a *app) diagnoseAnswer(wire *client.Error, err error) *fault {
	f := &fault{exit: exitFailed, code: string(wire.Reason), err: err}
	if f.code == "" {
		f.code = strings.ToUpper(wire.Code.String())
	}
	switch {
	case errors.Is(wire, client.ErrDenied):
		f.exit, f.fix = exitDenied, "ask for a role that may do this, or use other certificates"
	case errors.Is(wire, client.ErrInvalid):
		f.exit = exitInvalid
	case errors.Is(wire, client.ErrNotLeader), errors.Is(wire, client.ErrNoQuorum):
		f.exit, f.fix = exitUnreachable, "try again; `conveyor cluster status --stale` shows what one router knows"
	case errors.Is(wire, client.ErrNothingKnown):
		f.exit, f.fix = exitUnreachable, "ask another router with --server, or start so many that a majority runs"
	case errors.Is(wire, client.ErrRemoved):
		f.exit, f.fix = exitUnreachable, "name routers that are members with --server or CONVEYOR_SERVER"
	case errors.Is(wire, client.ErrNotFound):
		f.fix = "`" + cmp.Or(a.listHint, "conveyor get all -A") + "` lists what there is"
	case errors.Is(wire, client.ErrOwnedByOther):
		f.fix = "change it where it is managed, or take it over with `conveyor apply --take-over`"
	}
	return f
}

// warn prints one warning on standard error.
func (a *app) warn(format string, args ...any) {
	fmt.Fprintf(a.env.Stderr, "%s %s\n", a.err.Yellow("warning:"), fmt.Sprintf(format, args...))
}

// say prints one line on a writer; a writer that fails has nobody to tell.
func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
