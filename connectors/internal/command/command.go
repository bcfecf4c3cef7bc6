// Package command is the program conveyor-connect.
package command

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"

	"github.com/conveyor-etl/conveyor/connectors"
	"github.com/conveyor-etl/conveyor/sdk"
)

// setting is one value of the configuration and where it comes from.
type setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Origin string `json:"origin"`

	flag, env, fallback, usage string
}

func settings() []*setting {
	return []*setting{
		{Name: "listen", flag: "listen", env: "CONNECT_LISTEN", fallback: "127.0.0.1:50052", usage: "`HOST:PORT` to serve all connectors on"},
		{Name: "tlsCertFile", flag: "tls-cert", env: "TLS_CERT_FILE", usage: "certificate `FILE`"},
		{Name: "tlsKeyFile", flag: "tls-key", env: "TLS_KEY_FILE", usage: "private key `FILE`"},
		{Name: "tlsCaFile", flag: "tls-ca", env: "TLS_CA_FILE", usage: "`FILE` of the authority whose clients are let in"},
		{Name: "logLevel", flag: "log-level", env: "LOG_LEVEL", fallback: "info", usage: "debug, info, warn or error"},
	}
}

// Run runs the program until ctx is done and returns its exit code: 0, 1 after an error, 2 for a wrong configuration.
func Run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	all := settings()
	show, version, code := parse(all, args, getenv, stderr)
	if code >= 0 {
		return code
	}
	if version {
		fmt.Fprintln(stdout, "conveyor-connect", buildVersion())
		return 0
	}
	if show {
		return printConfig(stdout, stderr, all)
	}
	value := map[string]string{}
	for _, s := range all {
		value[s.Name] = s.Value
	}
	config, level, err := check(value)
	if err != nil {
		fmt.Fprintf(stderr, "error: %v\n", err)
		return 2
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	if err := serve(ctx, value["listen"], config, log, connectors.Options{Stdin: stdin, Stdout: stdout}); err != nil {
		fmt.Fprintf(stderr, "error: %v\n", err)
		return 1
	}
	return 0
}

// parse fills the settings from flags, environment and defaults, in this order. The code is negative when the program goes on.
func parse(all []*setting, args []string, getenv func(string) string, stderr io.Writer) (show, version bool, code int) {
	f := flag.NewFlagSet("conveyor-connect", flag.ContinueOnError)
	f.SetOutput(stderr)
	for _, s := range all {
		f.StringVar(&s.Value, s.flag, "", fmt.Sprintf("%s (%s, default %q)", s.usage, s.env, s.fallback))
	}
	f.BoolVar(&show, "print-config", false, "print the configuration and where each value comes from, and exit")
	f.BoolVar(&version, "version", false, "print the version and exit")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return false, false, 0
	} else if err != nil {
		return false, false, 2
	}
	if f.NArg() > 0 {
		fmt.Fprintf(stderr, "error: no arguments are taken, but there is %q\n", f.Arg(0))
		return false, false, 2
	}
	given := map[string]bool{}
	f.Visit(func(g *flag.Flag) { given[g.Name] = true })
	for _, s := range all {
		switch {
		case given[s.flag]:
			s.Origin = "--" + s.flag
		case getenv(s.env) != "":
			s.Value, s.Origin = getenv(s.env), s.env
		default:
			s.Value, s.Origin = s.fallback, "default"
		}
	}
	return show, version, -1
}

func printConfig(stdout, stderr io.Writer, all []*setting) int {
	encoder := json.NewEncoder(stdout)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(all); err != nil {
		fmt.Fprintf(stderr, "error: print configuration: %v\n", err)
		return 1
	}
	return 0
}

// check reports all faults of the configuration together.
func check(value map[string]string) (*tls.Config, slog.Level, error) {
	var level slog.Level
	var faults []error
	if err := level.UnmarshalText([]byte(value["logLevel"])); err != nil {
		faults = append(faults, fmt.Errorf("LOG_LEVEL: %q is not debug, info, warn or error", value["logLevel"]))
	}
	host, _, err := net.SplitHostPort(value["listen"])
	if err != nil {
		faults = append(faults, fmt.Errorf("CONNECT_LISTEN: %q is not HOST:PORT", value["listen"]))
	}
	config, tlsErr := certificates(value["tlsCertFile"], value["tlsKeyFile"], value["tlsCaFile"])
	if tlsErr != nil {
		faults = append(faults, tlsErr)
	}
	if err == nil && tlsErr == nil && config == nil && !loopback(host) {
		faults = append(faults, fmt.Errorf("CONNECT_LISTEN: without certificates only loopback addresses are served, not %q; "+
			"set TLS_CERT_FILE, TLS_KEY_FILE and TLS_CA_FILE", value["listen"]))
	}
	return config, level, errors.Join(faults...)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// certificates returns nil when none are configured. With an authority, clients must have a certificate of it.
func certificates(cert, key, ca string) (*tls.Config, error) {
	if cert == "" && key == "" && ca == "" {
		return nil, nil //nolint:nilnil // no certificates, no error
	}
	if cert == "" || key == "" || ca == "" {
		return nil, errors.New("TLS_CERT_FILE, TLS_KEY_FILE, TLS_CA_FILE: set all of them or none")
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("TLS_CERT_FILE, TLS_KEY_FILE: %w", err)
	}
	authority, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("TLS_CA_FILE: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("TLS_CA_FILE: %s has no certificate", ca)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}, nil
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func serve(ctx context.Context, listen string, config *tls.Config, log *slog.Logger, o connectors.Options) error {
	options := []sdk.Option{sdk.WithLogger(log), sdk.WithVersion(buildVersion())}
	if config != nil {
		options = append(options, sdk.WithTLS(config))
	} else {
		log.Warn("no certificates: serving loopback only, without encryption", "address", listen)
	}
	server, err := connectors.NewServer(o, options...)
	if err != nil {
		return fmt.Errorf("make server: %w", err)
	}
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", listen, err)
	}
	log.Info("serving connectors", "address", lis.Addr().String())
	if err := server.Serve(ctx, lis); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}
