package cli

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/internal/certs"
)

type clusterInitFlags struct {
	nodes    []string
	names    []string
	parts    []string
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

With --renew all certificates in DIR are made anew under the same authority, for
the names that they have. Copy them over the old ones: parts that run take them
over by themselves. To add a router, give all routers with --nodes in their
order, and the new one last: it gets a certificate, and its settings are shown.

With --for a sidecar, operator or admin gets a certificate of its own, which
speaks for nobody else; with --renew no other certificate is made then.

DIR/ca.key can make certificates for anybody. Keep it off the machines.`,
		Example: `  conveyor cluster init certs --nodes r1.lan,r2.lan,r3.lan
  conveyor cluster init certs --renew
  conveyor cluster init certs --renew --nodes r1.lan,r2.lan,r3.lan,r4.lan
  conveyor cluster init certs --renew --for sidecar/east,operator/alice`,
		Args: exactlyOne("the directory to make"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parseInit(cmd, args[0], &f)
			if err != nil {
				return err
			}
			return a.clusterInit(p)
		},
	}
	cmd.Flags().StringSliceVar(&f.nodes, "nodes", nil, "the routers, `HOST[:PORT],...`; the port is 50051 by default")
	cmd.Flags().StringSliceVar(&f.names, "name", nil, "`HOST` under which all routers are reached too, such as that of a balancer")
	cmd.Flags().StringSliceVar(&f.parts, "for", nil, "who gets a certificate of its own, `ROLE/NAME,...`: sidecar, operator or admin")
	cmd.Flags().DurationVar(&f.validFor, "valid-for", certs.DefaultValidity, "how long the certificates are valid")
	cmd.Flags().BoolVar(&f.renew, "renew", false, "make the certificates anew, and keep the authority")
	return cmd
}

// initPlan is what a command line asks for.
type initPlan struct {
	dir      string
	renew    bool
	validFor time.Duration
	nodes    []node
	names    []string         // of every router
	named    []certs.Identity // beside those that every cluster has
}

func parseInit(cmd *cobra.Command, dir string, f *clusterInitFlags) (*initPlan, error) {
	p := &initPlan{dir: dir, renew: f.renew, validFor: f.validFor, names: f.names}
	if len(f.nodes) == 0 && !f.renew {
		return nil, usage(cmd, "--nodes is missing: say at which hosts the routers will run")
	}
	var err error
	if p.nodes, err = parseNodes(cmd, f.nodes); err != nil {
		return nil, err
	}
	if f.validFor < time.Hour {
		return nil, usage(cmd, "--valid-for %v is less than an hour", f.validFor)
	}
	for _, n := range f.names {
		if !isHost(n) {
			return nil, usage(cmd, "--name %q is not a host name or an address", n)
		}
	}
	for _, part := range f.parts {
		id, err := certs.ParseIdentity(strings.TrimSpace(part))
		switch {
		case err != nil:
			return nil, usage(cmd, "--for %q: %v", part, err)
		case id.Role == certs.RoleRouter:
			return nil, usage(cmd, "--for %q: routers are listed with --nodes", part)
		}
		p.named = append(p.named, id)
	}
	if p.onlyNamed() && len(f.names) > 0 {
		return nil, usage(cmd, "--name is for certificates of routers, and --renew with --for makes none")
	}
	return p, nil
}

// onlyNamed reports whether nobody gets a certificate but those of --for.
func (p *initPlan) onlyNamed() bool { return len(p.nodes) == 0 && len(p.named) > 0 }

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

func isHost(s string) bool {
	return net.ParseIP(s) != nil || len(s) <= 253 && hostName.MatchString(s)
}

// plainHost is the one form of a host that has several.
func plainHost(s string) string {
	if ip := net.ParseIP(s); ip != nil {
		return ip.String()
	}
	return strings.ToLower(s)
}

func parseNodes(cmd *cobra.Command, list []string) ([]node, error) {
	var out []node
	for i, entry := range list {
		n := node{number: i + 1, host: strings.TrimSpace(entry), port: strconv.Itoa(defaultPort)}
		if host, port, err := net.SplitHostPort(n.host); err == nil {
			n.host, n.port = host, port
		}
		p, err := strconv.Atoi(n.port)
		if err != nil || p < 1 || p > 65535 {
			return nil, usage(cmd, "--nodes %q: the port must be a number from 1 to 65535", entry)
		}
		if !isHost(n.host) {
			return nil, usage(cmd, "--nodes %q: %q is not a host name or an address", entry, n.host)
		}
		n.port = strconv.Itoa(p)
		if slices.ContainsFunc(out, func(o node) bool { return o.at() == n.at() && o.port == n.port }) {
			return nil, usage(cmd, "--nodes names %s twice", net.JoinHostPort(n.host, n.port))
		}
		out = append(out, n)
	}
	if len(out) == 2 {
		return nil, usage(cmd, "--nodes lists two routers, which survive the loss of neither: list three or five, or one")
	}
	return out, nil
}

// at is the host by which routers are told apart.
func (n *node) at() string { return plainHost(n.host) }

func (n *node) address() string { return net.JoinHostPort(n.host, n.port) }

func (n *node) identity() certs.Identity {
	return certs.Identity{Role: certs.RoleRouter, Name: strconv.Itoa(n.number)}
}

// sharing is how many routers before this one are on its host.
func sharing(nodes []node, n node) int {
	count := 0
	for _, o := range nodes {
		if o.at() == n.at() && o.number < n.number {
			count++
		}
	}
	return count
}

// explain says what to do with the files of new parts.
func (a *app) explain(p *initPlan, parts []part) {
	w := a.env.Stdout
	fresh := slices.DeleteFunc(slices.Clone(parts), func(o part) bool { return o.known })
	var peers []string
	for _, n := range p.nodes {
		peers = append(peers, n.address())
	}
	list := strings.Join(peers, ",")
	for _, part := range fresh {
		at := filepath.Join(p.dir, partDir(part.id))
		switch {
		case part.node != nil:
			explainRouter(a, p, part.node, list)
		case part.id.Role == certs.RoleSidecar && part.id.Name == certs.AnyName:
			say(w, "\nsidecars:\n  CLUSTER_ENDPOINT=%s", list)
		case part.id.Role == certs.RoleSidecar:
			say(w, "\nthe sidecar %s:\n  SIDECAR_ID=%s", part.id.Name, part.id.Name)
		case part.id.Name == certs.AnyName && list != "":
			say(w, "\npeople, for the conveyor command:\n  CONVEYOR_SERVER=%s", list)
		default:
			say(w, "\n%s, for the conveyor command:", part.id)
		}
		say(w, "  TLS_CERT_FILE=%s/tls.crt\n  TLS_KEY_FILE=%s/tls.key\n  TLS_CA_FILE=%s/ca.crt", at, at, at)
	}
	if p.renew {
		explainAdding(a, parts, fresh)
		return
	}
	say(w, "\nkeep %s off the machines: it can make certificates for anybody", filepath.Join(p.dir, caKey))
}

// explainAdding says how new routers become part of a cluster that runs.
func explainAdding(a *app, parts, fresh []part) {
	isRouter := func(o part) bool { return o.id.Role == certs.RoleRouter }
	fresh = slices.DeleteFunc(fresh, func(o part) bool { return !isRouter(o) })
	before := len(slices.DeleteFunc(slices.Clone(parts), func(o part) bool { return !isRouter(o) })) - len(fresh)
	if before == 1 && len(fresh) > 0 {
		say(a.env.Stdout, "\nthe router that was alone is started again with this RAFT_PEERS first")
	}
	for _, o := range fresh {
		if before > 0 {
			say(a.env.Stdout, "\nonce router %d runs: conveyor cluster add %s", o.node.number, o.node.address())
		}
	}
}

func explainRouter(a *app, p *initPlan, n *node, peers string) {
	w := a.env.Stdout
	say(w, "\nrouter %d, on %s:", n.number, n.host)
	say(w, "  RAFT_NODE_ID=%d", n.number)
	say(w, "  RAFT_PEERS=%s", peers)
	if n.port != strconv.Itoa(defaultPort) {
		say(w, "  GRPC_PORT=%s", n.port)
	}
	// Routers that share a host need further ports of their own.
	if same := sharing(p.nodes, *n); same > 0 {
		say(w, "  OPS_PORT=%d\n  DLQ_PORT=%d", 9090+same, 6222+same)
	}
}

// summary says what was made.
func (a *app) summary(p *initPlan, parts []part) {
	var renewed []string
	for _, part := range parts {
		if part.known {
			renewed = append(renewed, part.id.String())
		}
	}
	until := time.Now().Add(p.validFor).Format(time.DateOnly)
	if len(renewed) == 0 {
		say(a.env.Stdout, "certificates made in %s, valid until %s", p.dir, until)
		return
	}
	say(a.env.Stdout, "certificates made anew in %s, valid until %s: %s", p.dir, until, strings.Join(renewed, ", "))
	say(a.env.Stdout, "copy them over the old ones; parts that run take them over within seconds")
}

// refuse is the error of a command line that does not fit what is in the directory.
func refuse(fix, format string, args ...any) *fault {
	return &fault{exit: exitInvalid, code: "USAGE", err: fmt.Errorf(format, args...), fix: fix}
}
