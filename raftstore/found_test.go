package raftstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/raftstore"
)

// said passes on what a store logs.
type said chan string

func (s said) Write(p []byte) (int, error) {
	select {
	case s <- string(p):
	default:
	}
	return len(p), nil
}

func (s said) wait(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case line := <-s:
			if strings.Contains(line, text) {
				return
			}
		case <-deadline:
			t.Fatalf("nothing said of %q", text)
		}
	}
}

func TestOpen_FoundsNothingWithoutAllOfItsPeers(t *testing.T) {
	log := make(said, 100)
	s, err := raftstore.Open(t.Context(), raftstore.Config{
		Dir: t.TempDir(), ServerName: "1", Address: "127.0.0.1:1", Logger: slog.New(slog.NewTextHandler(log, nil)),
		Peers: []raftstore.Peer{{ServerName: "1", Address: "127.0.0.1:1"}, {ServerName: "2", Address: "127.0.0.1:2"}},
	}, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	log.wait(t, "does not answer")
	if s.ClusterID() != "" || s.Leader() != "" {
		t.Errorf("cluster %q, leader %q", s.ClusterID(), s.Leader())
	}
}

func TestOpen_DoesNotDialOtherMachinesWithoutCredentials(t *testing.T) {
	log := make(said, 100)
	s, err := raftstore.Open(t.Context(), raftstore.Config{
		Dir: t.TempDir(), ServerName: "1", Address: "a.invalid:1", Logger: slog.New(slog.NewTextHandler(log, nil)),
		Peers: []raftstore.Peer{{ServerName: "1", Address: "a.invalid:1"}, {ServerName: "2", Address: "b.invalid:1"}},
	}, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	log.wait(t, "no credentials")
}

func TestOpen_AClusterOfOneKeepsItsStateWhenPeersAreListed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir, &journal{})
	propose(t, s, "a")
	id := s.ClusterID()
	s.Close()
	j := &journal{}
	s, err := raftstore.Open(t.Context(), raftstore.Config{
		Dir: dir, ServerName: "1", Address: "127.0.0.1:1",
		Peers: []raftstore.Peer{{ServerName: "1", Address: "127.0.0.1:1"}, {ServerName: "2", Address: "127.0.0.1:2"}},
	}, j)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	lead(t, s)
	if got := j.all(); s.ClusterID() != id || len(got) != 1 {
		t.Errorf("cluster %q with %v, and it was %q", s.ClusterID(), got, id)
	}
}

// It would go on as a server that the cluster has never heard of.
func TestOpen_RefusesAnIdentityThatIsNotWhatWasWritten(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, &journal{})
	propose(t, s, "precious")
	s.Close()
	path := filepath.Join(dir, "identity.json")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		for _, bits := range []byte{1, 2, 4, 8, 16, 32, 64, 128} {
			damaged := bytes.Clone(whole)
			damaged[i] ^= bits
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			id := s.ServerID()
			again, err := raftstore.Open(t.Context(), raftstore.Config{Dir: dir, ServerName: "1"}, &journal{})
			if err == nil {
				id = again.ServerID()
				again.Close()
			} else if !errors.Is(err, raftstore.ErrDamaged) {
				t.Fatalf("byte %d: %v", i, err)
			}
			if id != s.ServerID() || err == nil && again.ClusterID() != s.ClusterID() {
				t.Fatalf("byte %d became %q: opened as %s", i, damaged[i], id)
			}
			if err == nil {
				continue
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, damaged) {
				t.Fatalf("byte %d: the file was changed: %v", i, err)
			}
		}
	}
}

// summed is the document of an identity with a checksum over some of its members, as it was written before that over all bytes.
func summed(s *raftstore.Store, member int) string {
	sum := crc32.Checksum(fmt.Appendf(nil, "1 %q %q true false %d", s.ClusterID(), s.ServerID(), member), crc32.MakeTable(crc32.Castagnoli))
	return fmt.Sprintf(`{"version":1,"clusterId":%q,"serverId":%q,"founded":true,"member":%d,"sum":"%08x"}`, s.ClusterID(), s.ServerID(), member, sum)
}

func TestOpen_AnIdentityOfAnOlderVersionIsTakenAndGetsAChecksum(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, &journal{})
	propose(t, s, "precious")
	s.Close()
	path := filepath.Join(dir, "identity.json")
	for name, older := range map[string]string{
		"without a checksum": fmt.Sprintf(`{"version":1,"clusterId":%q,"serverId":%q,"founded":true}`, s.ClusterID(), s.ServerID()),
		"with one of some":   summed(s, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(older), 0o600); err != nil {
				t.Fatal(err)
			}
			j := &journal{}
			again := open(t, dir, j)
			if again.ServerID() != s.ServerID() || len(j.all()) != 1 {
				t.Errorf("server %s with %q", again.ServerID(), j.all())
			}
			again.Close()
			rewrite(t, path, func(data []byte) { data[bytes.Index(data, []byte(s.ServerID()))+3] ^= 1 })
			refused(t, dir, raftstore.ErrDamaged)
		})
	}
	for _, damaged := range []string{strings.Replace(summed(s, 1), `"member":1`, `"member":2`, 1), strings.Replace(summed(s, 1), `"sum"`, `"sun"`, 1)} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, dir, raftstore.ErrDamaged)
	}
}

// During an upgrade, and when one is taken back, a version reads what the next one wrote.
func TestOpen_AnIdentityOfALaterVersionWithMoreInItIsTaken(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, &journal{})
	propose(t, s, "precious")
	s.Close()
	path := filepath.Join(dir, "identity.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begun, _, _ := strings.Cut(string(data), `,"check":`)
	begun += `,"more":{"of":[1,2]}`
	later := fmt.Sprintf(`%s,"check":"%08x"}`+"\n", begun, crc32.Checksum([]byte(begun), crc32.MakeTable(crc32.Castagnoli)))
	if err := os.WriteFile(path, []byte(strings.Replace(later, "[1,2]", "[1,3]", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, raftstore.ErrDamaged)
	if err := os.WriteFile(path, []byte(later), 0o600); err != nil {
		t.Fatal(err)
	}
	j := &journal{}
	if again := open(t, dir, j); again.ServerID() != s.ServerID() || len(j.all()) != 1 {
		t.Errorf("server %s with %q", again.ServerID(), j.all())
	}
}
