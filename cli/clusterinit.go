package cli

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/internal/certs"
)

const (
	caCert = "ca.crt"
	caKey  = "ca.key"
)

type clusterInitFlags struct {
	nodes    []string
	names    []string
	validFor time.Duration
	renew    bool
}

// node is a router that certificates are made for.
type node struct {
	number     int
	host, port string
}

func (a *app) clusterInitCommand() *cobra.Command {
	var f clusterInitFlags
	cmd := &cobra.Command{
		Use:   "init DIR --nodes HOST[:PORT],...",
		Short: "Make the certificates of a cluster",
		Long: `Make an authority and the certificates of a cluster in DIR: one directory for
each router, one for all sidecars, one for people. Nothing is sent anywhere. The
routers are numbered in the order of --nodes.

With --renew the certificates are made anew under the same authority. Copy them
over the old ones: parts that run take them over by themselves.

DIR/ca.key can make certificates for anybody. Keep it off the machines.`,
		Example: `  conveyor cluster init certs --nodes r1.example,r2.example,r3.example
  conveyor cluster init certs --nodes r1.example,r2.example,r3.example --renew`,
		Args: exactlyOne("the directory to make"),
		RunE: func(cmd *cobra.Command, args []string) error {
			nodes, err := parseNodes(cmd, f.nodes)
			if err != nil {
				return err
			}
			if f.validFor < time.Hour {
				return usage(cmd, "--valid-for %v is less than an hour", f.validFor)
			}
			for _, n := range f.names {
				if !isHost(n) {
					return usage(cmd, "--name %q is not a host name or an address", n)
				}
			}
			return a.clusterInit(args[0], nodes, &f)
		},
	}
	cmd.Flags().StringSliceVar(&f.nodes, "nodes", nil, "the routers, `HOST[:PORT],...`; the port is 50051 by default")
	cmd.Flags().StringSliceVar(&f.names, "name", nil, "`HOST` under which all routers are reached too, such as that of a balancer")
	cmd.Flags().DurationVar(&f.validFor, "valid-for", certs.DefaultValidity, "how long the certificates are valid")
	cmd.Flags().BoolVar(&f.renew, "renew", false, "make the certificates anew, and keep the authority")
	return cmd
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

func isHost(s string) bool {
	return net.ParseIP(s) != nil || len(s) <= 253 && hostName.MatchString(s)
}

func parseNodes(cmd *cobra.Command, list []string) ([]node, error) {
	if len(list) == 0 {
		return nil, usage(cmd, "--nodes is missing: say at which hosts the routers will run")
	}
	var out []node
	for i, entry := range list {
		n := node{number: i + 1, host: strings.TrimSpace(entry), port: strconv.Itoa(defaultPort)}
		if host, port, err := net.SplitHostPort(n.host); err == nil {
			n.host, n.port = host, port
		}
		if p, err := strconv.Atoi(n.port); err != nil || p < 1 || p > 65535 {
			return nil, usage(cmd, "--nodes %q: the port must be a number from 1 to 65535", entry)
		}
		if !isHost(n.host) {
			return nil, usage(cmd, "--nodes %q: %q is not a host name or an address", entry, n.host)
		}
		if slices.ContainsFunc(out, func(o node) bool { return o.host == n.host && o.port == n.port }) {
			return nil, usage(cmd, "--nodes names %s twice", net.JoinHostPort(n.host, n.port))
		}
		out = append(out, n)
	}
	return out, nil
}

func (a *app) clusterInit(dir string, nodes []node, f *clusterInitFlags) error {
	authority, err := authorityIn(dir, f.renew)
	if err != nil {
		return err
	}
	local := []string{"localhost", "127.0.0.1", "::1"}
	for _, n := range nodes {
		hosts := append([]string{n.host}, f.names...)
		hosts = append(hosts, local...)
		slices.Sort(hosts)
		id := certs.Identity{Role: certs.RoleRouter, Name: strconv.Itoa(n.number)}
		if _, err := authority.Issue(id, slices.Compact(hosts), f.validFor, filepath.Join(dir, n.dir())); err != nil {
			return err
		}
	}
	for _, id := range []certs.Identity{{Role: certs.RoleSidecar, Name: certs.AnyName}, {Role: certs.RoleAdmin, Name: certs.AnyName}} {
		if _, err := authority.Issue(id, local, f.validFor, filepath.Join(dir, string(id.Role))); err != nil {
			return err
		}
	}
	explainInit(a.env.Stdout, dir, nodes, f)
	return nil
}

// sharing is how many routers before this one are on its host.
func sharing(nodes []node, n node) int {
	count := 0
	for _, o := range nodes {
		if o.host == n.host && o.number < n.number {
			count++
		}
	}
	return count
}

func (n *node) dir() string { return "router-" + strconv.Itoa(n.number) }

// authorityIn makes the authority of a directory, or reads it.
func authorityIn(dir string, renew bool) (*certs.Authority, error) {
	cert, key := filepath.Join(dir, caCert), filepath.Join(dir, caKey)
	if renew {
		authority, err := certs.LoadAuthority(cert, key)
		if err != nil {
			return nil, &fault{exit: exitFailed, code: "NO_AUTHORITY", err: err, fix: "leave --renew out to make a new authority, in a new directory"}
		}
		return authority, nil
	}
	authority, err := certs.NewAuthority("Conveyor " + time.Now().UTC().Format(time.DateOnly))
	if err != nil {
		return nil, err
	}
	err = authority.Save(cert, key)
	if errors.Is(err, os.ErrExist) {
		return nil, &fault{exit: exitFailed, code: "EXISTS", err: fmt.Errorf("there is an authority already: %w", err), fix: "make certificates under it with --renew, or give another directory"}
	}
	return authority, err
}

// explainInit says what to do with the files.
func explainInit(w io.Writer, dir string, nodes []node, f *clusterInitFlags) {
	var peers []string
	for _, n := range nodes {
		peers = append(peers, net.JoinHostPort(n.host, n.port))
	}
	made := "made"
	if f.renew {
		made = "made anew"
	}
	say(w, "certificates %s in %s, valid until %s", made, dir, time.Now().Add(f.validFor).Format(time.DateOnly))
	if f.renew {
		say(w, "copy them over the old ones; parts that run take them over within seconds")
		return
	}
	files := func(where string) string {
		at := filepath.Join(dir, where)
		return fmt.Sprintf("  TLS_CERT_FILE=%s/tls.crt\n  TLS_KEY_FILE=%s/tls.key\n  TLS_CA_FILE=%s/ca.crt", at, at, at)
	}
	for _, n := range nodes {
		say(w, "\nrouter %d, on %s:", n.number, n.host)
		say(w, "  RAFT_NODE_ID=%d", n.number)
		say(w, "  RAFT_PEERS=%s", strings.Join(peers, ","))
		if n.port != strconv.Itoa(defaultPort) {
			say(w, "  GRPC_PORT=%s", n.port)
		}
		// Routers that share a host need further ports of their own.
		if same := sharing(nodes, n); same > 0 {
			say(w, "  OPS_PORT=%d\n  DLQ_PORT=%d", 9090+same, 6222+same)
		}
		say(w, "%s", files(n.dir()))
	}
	say(w, "\nsidecars:\n  CLUSTER_ENDPOINT=%s\n%s", strings.Join(peers, ","), files("sidecar"))
	say(w, "\npeople, for the conveyor command:\n  CONVEYOR_SERVER=%s\n%s", strings.Join(peers, ","), files("admin"))
	say(w, "\nkeep %s off the machines: it can make certificates for anybody", filepath.Join(dir, caKey))
}
