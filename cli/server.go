package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/version"
)

const (
	defaultServer = "localhost:50051"
	serverEnv     = "CONVEYOR_SERVER"
	// retryFor is short: a person waits.
	retryFor = 3 * time.Second
)

// serverFlags are the flags of every command that uses a server.
type serverFlags struct {
	server string
	stale  bool
	tls    certs.Files
}

func (f *serverFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.server, "server", "", "routers to use, `HOST:PORT[,...]` (default $"+serverEnv+" or "+defaultServer+")")
	cmd.Flags().StringVar(&f.tls.Cert, "tls-cert-file", "", "certificate to show, in `FILE` (default $TLS_CERT_FILE)")
	cmd.Flags().StringVar(&f.tls.Key, "tls-key-file", "", "its key, in `FILE` (default $TLS_KEY_FILE)")
	cmd.Flags().StringVar(&f.tls.CA, "tls-ca-file", "", "who vouches for the routers, in `FILE` (default $TLS_CA_FILE)")
}

// addReading adds the flags of a command that only reads.
func (f *serverFlags) addReading(cmd *cobra.Command) {
	f.add(cmd)
	cmd.Flags().BoolVar(&f.stale, "stale", false, "answer without a leader too, with what one router knows")
}

// dial prepares a client of the server that flag, environment or default name.
func (a *app) dial(ctx context.Context, f serverFlags) (*client.Client, error) {
	list := f.server
	if list == "" {
		list = a.env.Getenv(serverEnv)
	}
	if list == "" {
		list = defaultServer
	}
	a.target = list
	var targets []string
	for t := range strings.SplitSeq(list, ",") {
		targets = append(targets, strings.TrimSpace(t))
	}
	opts := []client.Option{client.WithRetryFor(retryFor), client.WithUserAgent("conveyor/" + version.Get().Version)}
	if f.stale {
		opts = append(opts, client.WithStaleReads(a.warnStale()))
	}
	files := certs.Files{
		Cert: cmp.Or(f.tls.Cert, a.env.Getenv("TLS_CERT_FILE")), Key: cmp.Or(f.tls.Key, a.env.Getenv("TLS_KEY_FILE")), CA: cmp.Or(f.tls.CA, a.env.Getenv("TLS_CA_FILE")),
	}
	if a.files = files; files.Enabled() {
		store, err := certs.Load(files, nil)
		if err != nil {
			return nil, &fault{exit: exitInvalid, code: "CERTIFICATES", err: err, fix: "`conveyor cluster init` makes certificates; those of people are in its directory admin"}
		}
		for _, w := range store.Warnings() {
			a.warn("%s", w)
		}
		opts = append(opts, client.WithCredentials(store.ClientCredentials(certs.RoleRouter)))
	}
	c, err := client.Dial(ctx, targets, opts...)
	if err != nil {
		return nil, fmt.Errorf("use server %s: %w", list, err)
	}
	return c, nil
}

// warnStale returns a function that says once how old the answers are.
func (a *app) warnStale() func(client.Staleness) {
	var once sync.Once
	return func(s client.Staleness) {
		once.Do(func() {
			switch {
			case !s.Known:
				a.warn("the age of this answer is not known: router %s answers by itself, and has not caught up with a leader since it started; what came last may be missing", s.Server)
			case s.Age > 0:
				a.warn("router %s answers by itself; it had all that was committed %v ago", s.Server, s.Age.Round(time.Millisecond))
			}
		})
	}
}

// namespaceFlags are the flags of commands on objects in namespaces.
type namespaceFlags struct {
	namespace string
	all       bool
}

func (f *namespaceFlags) add(cmd *cobra.Command, lists bool) {
	cmd.Flags().StringVarP(&f.namespace, "namespace", "n", dsl.DefaultNamespace, "`NAMESPACE` of the objects")
	if lists {
		cmd.Flags().BoolVarP(&f.all, "all-namespaces", "A", false, "objects of all namespaces")
	}
}

// wanted is the namespace to list; "" for all.
func (f *namespaceFlags) wanted() string {
	if f.all {
		return ""
	}
	return f.namespace
}

func addOutput(cmd *cobra.Command, f *output.Format) {
	cmd.Flags().VarP(f, "output", "o", "table, wide, json, yaml, name or jsonpath=TEMPLATE")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "wide", "json", "yaml", "name", "jsonpath="}, cobra.ShellCompDirectiveNoFileComp))
}
