package view

import (
	"time"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// PipelineStatus is what a pipeline does.
type PipelineStatus struct {
	Phase      string `json:"phase"`
	Generation uint64 `json:"generation"`
	Guarantee  string `json:"guarantee,omitempty"`
	Counts
	Stages     []Stage     `json:"stages"`
	Lanes      []Lane      `json:"lanes"`
	Conditions []Condition `json:"conditions"`
}

// Counts say what became of the records. Read is the sum of the others.
type Counts struct {
	Read         uint64 `json:"read"`
	Written      uint64 `json:"written"`
	Filtered     uint64 `json:"filtered"`
	DeadLettered uint64 `json:"deadLettered"`
	Unrouted     uint64 `json:"unrouted"`
	Shed         uint64 `json:"shed"`
	InFlight     uint64 `json:"inFlight"`
}

// Stage is one stage on its sidecar.
type Stage struct {
	Name       string `json:"name"`
	Kind       string `json:"kind"`
	Service    string `json:"service,omitempty"`
	Sidecar    string `json:"sidecar,omitempty"`
	Open       bool   `json:"open"`
	WaitingFor string `json:"waitingFor,omitempty"`
	RecordsIn  uint64 `json:"recordsIn"`
	RecordsOut uint64 `json:"recordsOut"`
	Failed     uint64 `json:"failed"`
	Retries    uint64 `json:"retries"`
	InFlight   uint64 `json:"inFlight"`
	Edges      []Edge `json:"edges,omitempty"`
}

// Edge is one edge at its sending end.
type Edge struct {
	To                 string `json:"to"`
	Records            uint64 `json:"records"`
	Bytes              uint64 `json:"bytes"`
	OutstandingRecords uint64 `json:"outstandingRecords"`
	OutstandingBytes   uint64 `json:"outstandingBytes"`
	BlockedMillis      uint64 `json:"blockedMillis"`
}

// Lane is one partition of one source, at its reader.
type Lane struct {
	Source              string `json:"source"`
	Stage               string `json:"stage"`
	Partition           string `json:"partition"`
	Sidecar             string `json:"sidecar,omitempty"`
	Ended               bool   `json:"ended"`
	Problem             string `json:"problem,omitempty"`
	SettledThrough      uint64 `json:"settledThrough"`
	CheckpointedThrough uint64 `json:"checkpointedThrough"`
	Position            []byte `json:"position,omitempty"`
	Counts
}

// Condition is one thing that is so, or is not.
type Condition struct {
	Type    string     `json:"type"`
	Status  bool       `json:"status"`
	Reason  string     `json:"reason,omitempty"`
	Message string     `json:"message,omitempty"`
	Since   *time.Time `json:"since,omitempty"`
}

var phases = map[controlv1.Phase]string{
	controlv1.Phase_PHASE_PENDING:   "Pending",
	controlv1.Phase_PHASE_RUNNING:   "Running",
	controlv1.Phase_PHASE_DRAINING:  "Draining",
	controlv1.Phase_PHASE_PAUSED:    "Paused",
	controlv1.Phase_PHASE_COMPLETED: "Completed",
	controlv1.Phase_PHASE_FAILED:    "Failed",
}

// Phase is the phase in a word.
func Phase(p controlv1.Phase) string {
	if s, ok := phases[p]; ok {
		return s
	}
	return "Unknown"
}

// ShowCounts shows counts.
func ShowCounts(c *controlv1.Counts) Counts {
	return Counts{
		Read: c.GetRead(), Written: c.GetAcknowledged(), Filtered: c.GetFiltered(), DeadLettered: c.GetDead(),
		Unrouted: c.GetUnrouted(), Shed: c.GetShed(), InFlight: c.GetInFlight(),
	}
}

// Pipeline shows the status of a pipeline.
func Pipeline(s *controlv1.PipelineStatus) *PipelineStatus {
	out := &PipelineStatus{
		Phase: Phase(s.GetPhase()), Generation: s.GetGeneration(), Guarantee: s.GetGuarantee(), Counts: ShowCounts(s.GetCounts()),
		Stages: []Stage{}, Lanes: []Lane{}, Conditions: []Condition{},
	}
	for _, st := range s.GetStages() {
		v := Stage{
			Name: st.GetName(), Kind: st.GetKind(), Service: st.GetService(), Sidecar: st.GetSidecarId(), Open: st.GetOpen(), WaitingFor: output.Cause(st.GetWaitingFor()),
			RecordsIn: st.GetRecordsIn(), RecordsOut: st.GetRecordsOut(), Failed: st.GetFailed(), Retries: st.GetRetries(), InFlight: st.GetInFlight(),
		}
		for _, e := range st.GetEdges() {
			v.Edges = append(v.Edges, Edge{
				To: e.GetTo(), Records: e.GetRecords(), Bytes: e.GetBytes(), OutstandingRecords: e.GetOutstandingRecords(),
				OutstandingBytes: e.GetOutstandingBytes(), BlockedMillis: e.GetBlockedMillis(),
			})
		}
		out.Stages = append(out.Stages, v)
	}
	for _, l := range s.GetLanes() {
		out.Lanes = append(out.Lanes, Lane{
			Source: l.GetSource(), Stage: l.GetSourceStage(), Partition: l.GetPartition(), Sidecar: l.GetSidecarId(), Ended: l.GetEnded(), Problem: output.Cause(l.GetProblem()),
			SettledThrough: l.GetSettledThrough(), CheckpointedThrough: l.GetCheckpointedThrough(), Position: l.GetPosition(), Counts: ShowCounts(l.GetCounts()),
		})
	}
	for _, c := range s.GetConditions() {
		out.Conditions = append(out.Conditions, Condition{
			Type: c.GetType(), Status: c.GetStatus(), Reason: c.GetReason(), Message: output.Cause(c.GetMessage()), Since: moment(c.GetSince()),
		})
	}
	return out
}
