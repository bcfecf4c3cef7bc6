package view

import (
	"strings"
	"time"

	"github.com/conveyor-etl/conveyor/dsl"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// KindRouter is the kind of a member of the cluster.
const KindRouter = "Router"

// ClusterStatus is how the routers do.
type ClusterStatus struct {
	Incarnation uint64 `json:"incarnation"`
	// Leader is the id of the router that leads; empty when none is known to.
	Leader string `json:"leader,omitempty"`
	// Voters of the cluster, how many of them answer, and how many are needed for anything to change. Answering is left out of a stale answer, for which nobody
	// was asked.
	Voters    int  `json:"voters"`
	Answering *int `json:"answering,omitempty"`
	Needed    int  `json:"needed"`
	// Healthy: there is a leader, and all routers answer.
	Healthy bool `json:"healthy"`
	// FeatureLevel: what it brings is known to all routers; 0 from a router that does not say.
	FeatureLevel uint32 `json:"featureLevel,omitempty"`
	// DeadLetters are left out where they are not known: by a router that does not lead, or when there is a problem.
	DeadLetters       *uint64 `json:"deadLetters,omitempty"`
	DeadLetterProblem string  `json:"deadLetterProblem,omitempty"`
	// LetterCopiesProblem says why not every dead letter has all its copies.
	LetterCopiesProblem string    `json:"letterCopiesProblem,omitempty"`
	Staleness           *Stale    `json:"staleness,omitempty"`
	Routers             []*Object `json:"routers"`
}

// Stale says how old an answer may be.
type Stale struct {
	Server       string `json:"server"`
	AppliedIndex uint64 `json:"appliedIndex"`
	// AgeSeconds is how long ago everything that was committed was applied there; left out by a router that has not caught up since it started.
	AgeSeconds *float64 `json:"ageSeconds,omitempty"`
}

// RouterStatus is how one member does.
type RouterStatus struct {
	Address string `json:"address"`
	// Role is Leader, Voter or Learner.
	Role string `json:"role"`
	// AppliedIndex and Lag, how many commands it is behind the one that answered, are left out when it was not asked or did not answer.
	AppliedIndex *uint64 `json:"appliedIndex,omitempty"`
	Lag          *uint64 `json:"lag,omitempty"`
	Version      string  `json:"version,omitempty"`
	// Problem says why it does not answer.
	Problem string `json:"problem,omitempty"`
}

// Cluster shows the routers as one object.
func Cluster(c *controlv1.GetClusterResponse) *Object {
	st := &ClusterStatus{
		Incarnation: c.GetIncarnation(), Leader: c.GetLeaderId(), FeatureLevel: c.GetFeatureLevel(),
		DeadLetterProblem: c.GetDeadLetterProblem(), LetterCopiesProblem: c.GetLetterCopiesProblem(), Routers: []*Object{},
	}
	if !c.GetDeadLettersUnknown() && c.GetDeadLetterProblem() == "" {
		letters := c.GetDeadLetters()
		st.DeadLetters = &letters
	}
	if s := c.GetStaleness(); s != nil {
		st.Staleness = &Stale{Server: s.GetServerId(), AppliedIndex: s.GetAppliedIndex()}
		if s.GetKnown() {
			age := (time.Duration(s.GetAgeMillis()) * time.Millisecond).Seconds()
			st.Staleness.AgeSeconds = &age
		}
	}
	answering, silent := 0, 0
	for _, s := range c.GetServers() {
		r := &RouterStatus{
			Address: s.GetAddress(), Role: "Learner", Version: s.GetVersion(), Problem: s.GetProblem(),
		}
		if s.GetVoter() {
			r.Role = "Voter"
			st.Voters++
		}
		if s.GetId() == c.GetLeaderId() {
			r.Role = "Leader"
		}
		if s.GetProblem() != "" {
			silent++
		} else if s.GetVoter() {
			answering++
		}
		if s.GetProblem() == "" && st.Staleness == nil {
			applied, lag := s.GetAppliedIndex(), c.GetAppliedIndex()-min(s.GetAppliedIndex(), c.GetAppliedIndex())
			r.AppliedIndex, r.Lag = &applied, &lag
		}
		st.Routers = append(st.Routers, &Object{APIVersion: dsl.APIVersion, Kind: KindRouter, Metadata: Metadata{Name: s.GetId()}, Status: r})
	}
	st.Needed = st.Voters/2 + 1
	if st.Staleness == nil {
		st.Answering = &answering
	}
	st.Healthy = st.Staleness == nil && st.Leader != "" && silent == 0 && st.DeadLetterProblem == ""
	return &Object{APIVersion: dsl.APIVersion, Kind: "Cluster", Metadata: Metadata{Name: c.GetClusterId()}, Status: st}
}

// RouterNumber is the part of a router's id that people choose: RAFT_NODE_ID.
func RouterNumber(id string) string {
	number, _, _ := strings.Cut(id, "-")
	return number
}
