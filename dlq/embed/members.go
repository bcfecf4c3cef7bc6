package embed

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	// removeServer is the request that takes a server out of the cluster's own records.
	removeServer = "$JS.API.SERVER.REMOVE"
	// stepDown asks the server that leads the cluster to let another one lead.
	stepDown = server.JSApiLeaderStepDown
	// pingJetStream asks all servers for the state of their streams.
	pingJetStream = "$SYS.REQ.SERVER.PING.JSZ"
	// errPeerUnknown is its answer for a server that is not in them.
	errPeerUnknown = 10044
)

// deposePause is how long an election may take before it is looked who leads.
const deposePause = 100 * time.Millisecond

// askTimeout bounds a question: what is asked while another server begins to lead is answered by nobody.
const askTimeout = 5 * time.Second

var errAlone = errors.New("this server is not of a cluster")

// Member is one server of a cluster.
type Member struct {
	// Name is its server name; empty where it has not been heard of since this server started.
	Name string
	// Leader says that it keeps the records of the cluster.
	Leader bool
	// Current says that it was heard of lately, and has all of the cluster's records.
	Current bool
}

// Members are the servers that take part in the cluster, as its leader knows them; none while it has no leader. A server joins by starting with the others' routes, and
// is a member until it is forgotten, running or not. It blocks for a few seconds at most.
func (s *Server) Members(ctx context.Context) ([]Member, error) {
	members, err := s.members(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the servers of the letters: %w", err)
	}
	return members, nil
}

func (s *Server) members(ctx context.Context) ([]Member, error) {
	if s.secrets == nil {
		return nil, errAlone
	}
	own, err := s.ns.Jsz(&server.JSzOptions{})
	if err != nil {
		return nil, err
	}
	if own.Meta == nil || own.Meta.Leader == "" {
		return nil, nil
	}
	var resp server.ServerAPIJszResponse
	if err := s.ask(ctx, pingJetStream, server.JSzOptions{LeaderOnly: true}, &resp); err != nil {
		return nil, err
	}
	if resp.Error != nil {
		return nil, errors.New(resp.Error.Description)
	}
	if resp.Data == nil || resp.Data.Meta == nil {
		return nil, nil
	}
	members := []Member{{Name: resp.Data.Meta.Leader, Leader: true, Current: true}}
	for _, p := range resp.Data.Meta.Replicas {
		// What the server says for one that it has not heard of.
		const unknown = "Server name unknown"
		m := Member{Name: p.Name, Current: p.Current && !p.Offline}
		if strings.HasPrefix(m.Name, unknown) {
			m.Name = ""
		}
		members = append(members, m)
	}
	return members, nil
}

// Forget takes a server that will not come back out of the cluster, by its name, so that others get copies of what it kept. One that is not known is no error. It
// needs a majority of the servers, and returns when they have agreed; it blocks for a few seconds at most, and may be called again.
func (s *Server) Forget(ctx context.Context, name string) error {
	if err := s.forget(ctx, name); err != nil {
		return fmt.Errorf("forget server %s of the letters: %w", name, err)
	}
	return nil
}

func (s *Server) forget(ctx context.Context, name string) error {
	if s.secrets == nil {
		return errAlone
	}
	if err := s.depose(ctx, name); err != nil {
		return err
	}
	// By its number, which follows from the name: the one that answers may never have heard of the name, and would then say that there is no such server.
	var resp server.JSApiMetaServerRemoveResponse
	if err := s.ask(ctx, removeServer, server.JSApiMetaServerRemoveRequest{Peer: peerID(name)}, &resp); err != nil {
		return err
	}
	if resp.Error != nil && resp.Error.ErrCode != errPeerUnknown {
		return errors.New(resp.Error.Description)
	}
	return nil
}

// depose returns when some other server leads the cluster. The one that leads gives the copies of whoever is removed to others; it cannot do so for its own, and when it is
// removed nobody does.
func (s *Server) depose(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for {
		members, err := s.members(ctx)
		if err != nil {
			return err
		}
		leads := slices.IndexFunc(members, func(m Member) bool { return m.Leader })
		if leads >= 0 && members[leads].Name != name {
			return nil
		}
		if leads >= 0 {
			var resp server.JSApiLeaderStepDownResponse
			if err := s.ask(ctx, stepDown, server.JSApiLeaderStepdownRequest{}, &resp); err != nil {
				return err
			}
			if resp.Error != nil {
				return errors.New(resp.Error.Description)
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(deposePause):
		}
	}
}

// ask asks the servers of the cluster something that only they ask each other, and takes the first answer.
func (s *Server) ask(ctx context.Context, subject string, question, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	nc, err := s.connect(nats.UserInfo(systemUser, s.secrets.system))
	if err != nil {
		return err
	}
	defer nc.Close()
	req, err := json.Marshal(question)
	if err != nil {
		return err
	}
	m, err := nc.RequestWithContext(ctx, subject, req)
	if err != nil {
		return err
	}
	return json.Unmarshal(m.Data, answer)
}

// peerID is the number by which the servers of a cluster know one of a name.
func peerID(name string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	sum := sha256.Sum256([]byte(name))
	id := make([]byte, 8)
	for i := range id {
		id[i] = digits[int(sum[i])%len(digits)]
	}
	return string(id)
}
