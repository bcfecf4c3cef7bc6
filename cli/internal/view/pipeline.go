package view

import (
	"time"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// PipelineStatus is what a pipeline does.
type PipelineStatus struct {
	// Phase is left out where it is not known.
	Phase      string `json:"phase,omitempty"`
	Generation uint64 `json:"generation"`
	Guarantee  string `json:"guarantee,omitempty"`
	// ReportsUnknown: the router that answered does not lead, and so does not know what sidecars report.
	ReportsUnknown bool `json:"reportsUnknown,omitempty"`
	// Counts are left out where they are not known.
	*Counts
	Stages []Stage `json:"stages"`
	// Lanes are left out where they are not known.
	Lanes      []Lane      `json:"lanes,omitzero"`
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
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Service string `json:"service,omitempty"`
	Sidecar string `json:"sidecar,omitempty"`
	// Open is left out where it is not known.
	Open       *bool  `json:"open,omitempty"`
	WaitingFor string `json:"waitingFor,omitempty"`
	// Figures are left out where they are not known.
	*Figures
	Edges []Edge `json:"edges,omitempty"`
}

// Figures are what a stage counts.
type Figures struct {
	RecordsIn  uint64 `json:"recordsIn"`
	RecordsOut uint64 `json:"recordsOut"`
	Failed     uint64 `json:"failed"`
	Retries    uint64 `json:"retries"`
	InFlight   uint64 `json:"inFlight"`
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
	Source    string `json:"source"`
	Stage     string `json:"stage"`
	Partition string `json:"partition"`
	Sidecar   string `json:"sidecar,omitempty"`
	Ended     bool   `json:"ended"`
	Problem   string `json:"problem,omitempty"`
	// ReadsOn: the lane reads on in spite of its problem.
	ReadsOn             bool   `json:"readsOn,omitempty"`
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
		Generation: s.GetGeneration(), Guarantee: s.GetGuarantee(), ReportsUnknown: s.GetReportsUnknown(), Stages: []Stage{}, Conditions: []Condition{},
	}
	if !s.GetReportsUnknown() || s.GetPhase() != controlv1.Phase_PHASE_UNSPECIFIED {
		out.Phase = Phase(s.GetPhase())
	}
	if !s.GetReportsUnknown() {
		out.Lanes = []Lane{}
	}
	if s.GetCounts() != nil {
		counts := ShowCounts(s.GetCounts())
		out.Counts = &counts
	}
	for _, st := range s.GetStages() {
		v := Stage{
			Name: st.GetName(), Kind: st.GetKind(), Service: st.GetService(), Sidecar: st.GetSidecarId(), WaitingFor: output.Cause(st.GetWaitingFor()),
		}
		if !s.GetReportsUnknown() {
			open := st.GetOpen()
			v.Open = &open
			v.Figures = &Figures{
				RecordsIn: st.GetRecordsIn(), RecordsOut: st.GetRecordsOut(), Failed: st.GetFailed(), Retries: st.GetRetries(), InFlight: st.GetInFlight(),
			}
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
			Source: l.GetSource(), Stage: l.GetSourceStage(), Partition: l.GetPartition(), Sidecar: l.GetSidecarId(), Ended: l.GetEnded(), Problem: output.Cause(l.GetProblem()), ReadsOn: l.GetReadsOn(),
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
