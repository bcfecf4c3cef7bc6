package env

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"strconv"
	"strings"
)

// A Port is a TCP port; 0 lets the system choose one.
type Port int

// UnmarshalText takes a number from 0 to 65535.
func (p *Port) UnmarshalText(text []byte) error {
	n, err := parsePort(string(text), 0)
	if err != nil {
		return err
	}
	*p = Port(n)
	return nil
}

// A PortRange is the ports from First to Last, both included.
type PortRange struct{ First, Last int }

// Ports is a list of single ports and ranges: "50051-50060,50070".
type Ports []PortRange

// MaxPorts is how many ports a list may hold, so that scanning them stays cheap.
const MaxPorts = 1024

// UnmarshalText takes single ports and ranges with commas between them.
func (p *Ports) UnmarshalText(text []byte) error {
	var out Ports
	for _, part := range split(string(text)) {
		from, to, isRange := strings.Cut(part, "-")
		first, err := parsePort(strings.TrimSpace(from), 1)
		if err != nil {
			return fmt.Errorf("in %q: %w", part, err)
		}
		last := first
		if isRange {
			if last, err = parsePort(strings.TrimSpace(to), 1); err != nil {
				return fmt.Errorf("in %q: %w", part, err)
			}
		}
		if last < first {
			return fmt.Errorf("in %q: the range ends before it begins", part)
		}
		out = append(out, PortRange{first, last})
	}
	if n := out.Count(); n > MaxPorts {
		return fmt.Errorf("%d ports are more than %d", n, MaxPorts)
	}
	*p = out
	return nil
}

// MarshalText gives the form that UnmarshalText takes.
func (p Ports) MarshalText() ([]byte, error) {
	parts := make([]string, len(p))
	for i, r := range p {
		parts[i] = strconv.Itoa(r.First)
		if r.Last != r.First {
			parts[i] += "-" + strconv.Itoa(r.Last)
		}
	}
	return []byte(strings.Join(parts, ",")), nil
}

// Count returns the number of ports, those counted twice that are listed twice.
func (p Ports) Count() int {
	n := 0
	for _, r := range p {
		n += r.Last - r.First + 1
	}
	return n
}

// All yields each port once, in the order of the list.
func (p Ports) All() iter.Seq[int] {
	return func(yield func(int) bool) {
		seen := map[int]bool{}
		for _, r := range p {
			for port := r.First; port <= r.Last; port++ {
				if seen[port] {
					continue
				}
				seen[port] = true
				if !yield(port) {
					return
				}
			}
		}
	}
}

// A HostPort is an address: a host name or IP address, and a port.
type HostPort struct {
	Host string // without brackets
	Port int
}

// String returns host:port, with brackets around IPv6 addresses; the zero HostPort is "".
func (h HostPort) String() string {
	if h == (HostPort{}) {
		return ""
	}
	return net.JoinHostPort(h.Host, strconv.Itoa(h.Port))
}

// MarshalText gives the form that UnmarshalText takes.
func (h HostPort) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText takes host:port or [ipv6]:port; an empty text is the zero HostPort.
func (h *HostPort) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*h = HostPort{}
		return nil
	}
	out, err := ParseHostPort(string(text))
	if err == nil {
		*h = out
	}
	return err
}

// ParseHostPort parses host:port. Its errors do not repeat the text.
func ParseHostPort(text string) (HostPort, error) {
	if strings.Contains(text, "://") {
		return HostPort{}, errors.New("is a URL: only host:port is needed")
	}
	host, port, err := net.SplitHostPort(text)
	switch addr := (*net.AddrError)(nil); {
	case errors.As(err, &addr) && addr.Err == "missing port in address":
		return HostPort{}, errors.New("port is missing: expected host:port")
	case err != nil:
		return HostPort{}, errors.New("is not host:port (an IPv6 address needs brackets)")
	case host == "":
		return HostPort{}, errors.New("host is missing: expected host:port")
	case strings.ContainsAny(host, " \t\r\n/=,@"):
		return HostPort{}, errors.New("host has characters that no host name has")
	}
	n, err := parsePort(port, 1)
	return HostPort{host, n}, err
}

// HostPorts is a list of addresses with commas between them.
type HostPorts []HostPort

// UnmarshalText takes addresses as [ParseHostPort] does.
func (h *HostPorts) UnmarshalText(text []byte) error {
	var out HostPorts
	for _, part := range split(string(text)) {
		hp, err := ParseHostPort(part)
		if err != nil {
			return in(part, text, err)
		}
		out = append(out, hp)
	}
	*h = out
	return nil
}

// MarshalText gives the form that UnmarshalText takes.
func (h HostPorts) MarshalText() ([]byte, error) { return []byte(strings.Join(h.Strings(), ",")), nil }

// Strings returns the addresses as host:port.
func (h HostPorts) Strings() []string {
	out := make([]string, len(h))
	for i := range h {
		out[i] = h[i].String()
	}
	return out
}

// A Peer is a numbered node of a cluster.
type Peer struct {
	ID      string
	Address HostPort
}

// Peers is the list of a cluster's nodes: "host:port,host:port" numbers them from 1 by position,
// "id=host:port" names them.
type Peers []Peer

// UnmarshalText takes the two forms, also mixed; ids and addresses must differ.
func (p *Peers) UnmarshalText(text []byte) error {
	var out Peers
	ids, addresses := map[string]bool{}, map[HostPort]bool{}
	for i, part := range split(string(text)) {
		id, addr, named := strings.Cut(part, "=")
		if !named {
			id, addr = strconv.Itoa(i+1), part
		}
		hp, err := ParseHostPort(addr)
		switch {
		case err != nil:
			return in(part, text, err)
		case id == "":
			return in(part, text, errors.New("id is missing: expected id=host:port"))
		case ids[id]:
			return in(part, text, fmt.Errorf("id %s is used twice", id))
		case addresses[hp]:
			return in(part, text, fmt.Errorf("address %s is listed twice", hp))
		}
		ids[id], addresses[hp] = true, true
		out = append(out, Peer{id, hp})
	}
	*p = out
	return nil
}

// MarshalText gives the form that UnmarshalText takes, with all ids.
func (p Peers) MarshalText() ([]byte, error) {
	parts := make([]string, len(p))
	for i, peer := range p {
		parts[i] = peer.ID + "=" + peer.Address.String()
	}
	return []byte(strings.Join(parts, ",")), nil
}

// Bytes is a size: "1048576", "64KiB", "1Mi", "2GB". Ki, Mi, Gi and Ti count by 1024, k, M, G and T
// by 1000; a B may follow.
type Bytes int64

var byteUnits = []struct {
	name string
	size int64
}{
	{"Ti", 1 << 40},
	{"Gi", 1 << 30},
	{"Mi", 1 << 20},
	{"Ki", 1 << 10},
	{"T", 1e12},
	{"G", 1e9},
	{"M", 1e6},
	{"k", 1e3},
	{"K", 1e3},
}

// UnmarshalText takes a whole number and a unit.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	if n := len(s); n > 1 && s[n-1] == 'B' {
		s = s[:n-1]
	}
	size := int64(1)
	for _, u := range byteUnits {
		if number, ok := strings.CutSuffix(s, u.name); ok {
			s, size = strings.TrimSpace(number), u.size
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	switch {
	case err != nil || n < 0:
		return errors.New(`is not a size like "64KiB" or "10MB"`)
	case n > (1<<63-1)/size:
		return errors.New("is out of range")
	}
	*b = Bytes(n * size)
	return nil
}

// String returns the size with the largest unit of 1024 that divides it.
func (b Bytes) String() string {
	for _, u := range byteUnits[:4] {
		if b != 0 && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name + "B"
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText gives the form that UnmarshalText takes.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

func parsePort(text string, lowest int) (int, error) {
	n, err := strconv.Atoi(text)
	switch {
	case text == "":
		return 0, errors.New("port is missing")
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return 0, errors.New("port is not a number")
	case err != nil || n < lowest || n > 65535:
		return 0, fmt.Errorf("port is not between %d and 65535", lowest)
	}
	return n, nil
}

// in says which part of a list is wrong, unless the list has only one.
func in(part string, list []byte, err error) error {
	if part == strings.TrimSpace(string(list)) {
		return err
	}
	return fmt.Errorf("in %q: %w", part, err)
}
