package sdk

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// DefaultListen is where Main listens unless told otherwise: the first port that sidecars scan.
const DefaultListen = "127.0.0.1:50051"

// Main runs a program that offers the abilities, until SIGINT or SIGTERM, and exits with its code. It understands
//
//	--listen HOST:PORT   or SERVICE_LISTEN; 127.0.0.1:50051 unless said otherwise
//	--tls-cert, --tls-key FILE
//	--describe           print the abilities with the schemas of their configs, and exit
func Main(options ...Option) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(Run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr, options...))
}

// Run is Main without the process: it serves until ctx is done and returns the exit code: 0, 1 after an error, 2 for wrong usage.
func Run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer, options ...Option) int {
	log := slog.New(slog.NewTextHandler(stderr, nil))
	f := flag.NewFlagSet(filepath.Base(os.Args[0]), flag.ContinueOnError)
	f.SetOutput(stderr)
	listen := f.String("listen", firstOf(getenv("SERVICE_LISTEN"), DefaultListen), "`HOST:PORT` to listen on")
	cert := f.String("tls-cert", "", "certificate `FILE`; serves TLS together with --tls-key")
	key := f.String("tls-key", "", "private key `FILE`")
	describe := f.Bool("describe", false, "print the abilities of this service as JSON and exit")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if f.NArg() > 0 || (*cert == "") != (*key == "") {
		fmt.Fprintln(stderr, "error: no arguments are taken, and --tls-cert and --tls-key belong together")
		return 2
	}
	options = append([]Option{WithLogger(log)}, options...)
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			fmt.Fprintf(stderr, "error: load certificate: %v\n", err)
			return 2
		}
		options = append(options, WithTLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}))
	}
	server, err := NewServer(options...)
	if err != nil {
		fmt.Fprintf(stderr, "error: %v\n", err)
		return 2
	}
	if *describe {
		return printAbilities(stdout, stderr, server)
	}
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *listen)
	if err != nil {
		fmt.Fprintf(stderr, "error: listen on %s: %v\n", *listen, err)
		return 1
	}
	for _, a := range server.settings.abilities {
		log.Info("offer", "kind", a.Kind(), "type", a.Type(), "address", lis.Addr().String())
	}
	if err := server.Serve(ctx, lis); err != nil {
		fmt.Fprintf(stderr, "error: %v\n", err)
		return 1
	}
	return 0
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func printAbilities(stdout, stderr io.Writer, server *Server) int {
	type ability struct {
		Kind         string          `json:"kind"`
		Type         string          `json:"type"`
		Version      string          `json:"version,omitempty"`
		ConfigSchema json.RawMessage `json:"configSchema"`
	}
	var all []ability
	for _, info := range server.Describe() {
		all = append(all, ability{kindName(info.GetKind()), info.GetType(), info.GetVersion(), info.GetConfigSchema()})
	}
	encoder := json.NewEncoder(stdout)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(all); err != nil {
		fmt.Fprintf(stderr, "error: print abilities: %v\n", err)
		return 1
	}
	return 0
}
