package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/conveyor-etl/conveyor/internal/certs"
)

const (
	caCert = "ca.crt"
	caKey  = "ca.key"

	ownerOnly  = 0o600
	othersUse  = 0o077
	othersMake = 0o022
)

// part is somebody who gets a certificate.
type part struct {
	id    certs.Identity
	hosts []string
	node  *node // of a router that is in --nodes
	known bool  // it has a certificate already
}

// partDir is the directory of a part's files.
func partDir(id certs.Identity) string {
	if id.Name == certs.AnyName {
		return string(id.Role)
	}
	return string(id.Role) + "-" + id.Name
}

// local is how every part is reached on its own host.
var local = []string{"localhost", "127.0.0.1", "::1"}

// everyone are the certificates that every cluster has beside those of its routers.
var everyone = []certs.Identity{{Role: certs.RoleSidecar, Name: certs.AnyName}, {Role: certs.RoleAdmin, Name: certs.AnyName}}

// clusterInit writes nothing before it is certain that all can be made.
func (a *app) clusterInit(p *initPlan) error {
	if err := checkDir(p.dir); err != nil {
		return err
	}
	authority, err := a.authorityFor(p)
	if err != nil {
		return err
	}
	if err := authority.Holds(p.validFor); err != nil {
		return refuse("give a shorter --valid-for, or replace the authority as docs/operations.md says", "--valid-for %v: %w", p.validFor, err)
	}
	parts, err := p.parts()
	if err != nil {
		return err
	}
	if !p.renew {
		if err := authority.Save(filepath.Join(p.dir, caCert), filepath.Join(p.dir, caKey)); err != nil {
			return err
		}
	}
	for _, part := range parts {
		if _, err := authority.Issue(part.id, part.hosts, p.validFor, filepath.Join(p.dir, partDir(part.id))); err != nil {
			return err
		}
	}
	a.summary(p, parts)
	a.explain(p, parts)
	return nil
}

// checkDir refuses a directory into which others could put what is then trusted.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at the directory: %w", err)
	case runtime.GOOS == "windows" || info.Mode().Perm()&othersMake == 0:
		return nil
	}
	return &fault{
		exit: exitFailed, code: "WRITABLE_BY_OTHERS", err: fmt.Errorf("others can change what is in %s (mode %04o)", dir, info.Mode().Perm()),
		fix: "`chmod go-w " + dir + "`, or give a directory that is not there yet",
	}
}

// authorityFor makes the authority of a directory, which is not saved yet, or reads it.
func (a *app) authorityFor(p *initPlan) (*certs.Authority, error) {
	cert, key := filepath.Join(p.dir, caCert), filepath.Join(p.dir, caKey)
	if p.renew {
		authority, err := certs.LoadAuthority(cert, key)
		if err != nil {
			return nil, &fault{exit: exitFailed, code: "NO_AUTHORITY", err: err, fix: "leave --renew out to make a new authority, in a new directory"}
		}
		return authority, a.hide(key)
	}
	for _, f := range []string{cert, key} {
		if _, err := os.Lstat(f); err == nil {
			return nil, &fault{
				exit: exitFailed, code: "EXISTS", err: fmt.Errorf("there is an authority already: %s: %w", f, fs.ErrExist),
				fix: "make certificates under it with --renew, or give another directory",
			}
		}
	}
	return certs.NewAuthority("Conveyor " + time.Now().UTC().Format(time.DateOnly))
}

// hide makes the key of an authority one that its owner only can read.
func (a *app) hide(key string) error {
	info, err := os.Stat(key)
	if err != nil || runtime.GOOS == "windows" || info.Mode().Perm()&othersUse == 0 {
		return err
	}
	if err := os.Chmod(key, ownerOnly); err != nil {
		return fmt.Errorf("others can use the key of the authority: %w", err)
	}
	a.warn("others could use %s, whose mode was %04o and is 0600 now: if somebody has read it, replace the authority", key, info.Mode().Perm())
	return nil
}

// parts are those who get certificates.
func (p *initPlan) parts() ([]part, error) {
	known := map[string]part{}
	if p.renew {
		var err error
		if known, err = readParts(p.dir); err != nil {
			return nil, err
		}
	}
	wanted := map[string]part{}
	add := func(id certs.Identity, hosts []string, n *node) error {
		dir := partDir(id)
		was, ok := known[dir]
		switch {
		case ok && was.id != id:
			return refuse("move that directory away", "%s is the certificate of %s, and that of %s would come in its place", filepath.Join(p.dir, dir, "tls.crt"), was.id, id)
		case ok:
			hosts = slices.Concat(was.hosts, hosts)
		}
		wanted[dir] = part{id: id, hosts: distinct(hosts), node: n, known: ok}
		return nil
	}
	for _, id := range p.named {
		if err := add(id, local, nil); err != nil {
			return nil, err
		}
	}
	if p.onlyNamed() {
		return byRole(wanted), nil
	}
	for dir, was := range known {
		if _, ok := wanted[dir]; !ok && partDir(was.id) == dir {
			wanted[dir] = was
		}
	}
	if len(p.nodes) == 0 && len(wanted) == 0 {
		return nil, refuse("list all routers with --nodes", "no certificate in %s can be made anew", p.dir)
	}
	if len(p.nodes) > 0 {
		if err := p.addNodes(known, add); err != nil {
			return nil, err
		}
	}
	for dir, w := range wanted {
		if w.id.Role == certs.RoleRouter {
			w.hosts = distinct(append(w.hosts, p.names...))
			wanted[dir] = w
		}
	}
	return byRole(wanted), nil
}

// addNodes adds the routers of --nodes, and the certificates that a cluster has beside theirs.
func (p *initPlan) addNodes(known map[string]part, add func(certs.Identity, []string, *node) error) error {
	shared, err := p.checkNodes(known)
	if err != nil {
		return err
	}
	for i := range p.nodes {
		n := &p.nodes[i]
		if err := add(n.identity(), slices.Concat([]string{n.host}, shared, local), n); err != nil {
			return err
		}
	}
	for _, id := range everyone {
		if err := add(id, local, nil); err != nil {
			return err
		}
	}
	return nil
}

// checkNodes makes sure that --nodes lists the routers that have certificates as they are. It returns the names that all of them have beside their own.
func (p *initPlan) checkNodes(known map[string]part) (shared []string, err error) {
	const fix = "list all routers in their order, and new ones after them; without --nodes all certificates are made anew as they are"
	routers := slices.DeleteFunc(byRole(known), func(was part) bool { return was.id.Role != certs.RoleRouter })
	for _, was := range slices.Backward(routers) {
		if number, err := strconv.Atoi(was.id.Name); err != nil || number < 1 || number > len(p.nodes) {
			return nil, refuse(fix, "%s holds a certificate of router %s, and --nodes lists %d", p.dir, was.id.Name, len(p.nodes))
		}
	}
	for i, was := range routers {
		number, _ := strconv.Atoi(was.id.Name) // it is one, see above
		n := p.nodes[number-1]
		others := slices.DeleteFunc(slices.Clone(was.hosts), func(h string) bool { return slices.Contains(local, h) })
		if !slices.Contains(local, n.at()) && !slices.Contains(others, n.at()) {
			return nil, refuse(fmt.Sprintf("%s; to give router %d another name, move %s away", fix, number, filepath.Join(p.dir, partDir(was.id))),
				"router %d is %s by its certificate, and --nodes says %s", number, cmp.Or(strings.Join(others, ", "), local[0]), n.host)
		}
		others = slices.DeleteFunc(others, func(h string) bool { return h == n.at() || i > 0 && !slices.Contains(shared, h) })
		shared = others
	}
	return shared, nil
}

// readParts are the parts whose files are in a directory, by the name of theirs.
func readParts(dir string) (map[string]part, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for certificates: %w", err)
	}
	out := map[string]part{}
	for _, entry := range entries {
		f := filepath.Join(dir, entry.Name(), "tls.crt")
		if info, err := os.Stat(filepath.Dir(f)); err != nil || !info.IsDir() {
			continue
		}
		id, hosts, err := certs.ReadIssued(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: move %s away", err, filepath.Dir(f))
		}
		out[entry.Name()] = part{id: id, hosts: distinct(hosts), known: true}
	}
	return out, nil
}

func distinct(hosts []string) []string {
	out := make([]string, 0, len(hosts))
	for _, h := range hosts {
		out = append(out, plainHost(h))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// byRole puts routers first, by their numbers.
func byRole(parts map[string]part) []part {
	rank := []certs.Role{certs.RoleRouter, certs.RoleSidecar, certs.RoleAdmin, certs.RoleOperator}
	out := make([]part, 0, len(parts))
	for _, p := range parts {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b part) int {
		return cmp.Or(
			cmp.Compare(slices.Index(rank, a.id.Role), slices.Index(rank, b.id.Role)),
			cmp.Compare(len(a.id.Name), len(b.id.Name)), // 2 before 10
			cmp.Compare(a.id.Name, b.id.Name),
		)
	})
	return out
}
