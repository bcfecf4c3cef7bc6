package sidecar

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/conveyor-etl/conveyor/internal/certs"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/sidecar/internal/control"
)

// maxLaneSeries bounds the series of lanes; the lanes of further partitions are summed under the partition moreLanes.
const (
	maxLaneSeries = 512
	moreLanes     = "(more)"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("conveyor_sidecar_"+name, help, labels, nil)
}

var (
	edgeLabels  = []string{"pipeline", "stage", "to"}
	stageLabels = []string{"pipeline", "stage"}
	laneLabels  = []string{"pipeline", "source", "partition"}

	descRegistered    = desc("registered", "1 while the sidecar has a session with the routers.")
	descRegistrations = desc("registrations_total", "Sessions that were opened.")
	descServices      = desc("discovered_services", "Services found beside the sidecar.")
	descAnswer        = desc("last_answer_timestamp_seconds", "When a router last answered.")
	descCertificate   = desc("certificate_end_timestamp_seconds", "When the certificate in use ends, or the authority that vouches for it.")

	descEdgeRecords     = desc("edge_records_total", "Records sent over the edge.", edgeLabels...)
	descEdgeBytes       = desc("edge_bytes_total", "Bytes of records sent over the edge.", edgeLabels...)
	descEdgeOutstanding = desc("edge_outstanding_records", "Records sent over the edge and not settled.", edgeLabels...)
	descEdgeOutBytes    = desc("edge_outstanding_bytes", "Bytes of records sent over the edge and not settled.", edgeLabels...)
	descEdgeBlocked     = desc("edge_blocked_seconds_total", "Time for which the sender of the edge waited for credit.", edgeLabels...)

	descStageIn      = desc("stage_records_in_total", "Records that the stage took.", stageLabels...)
	descStageOut     = desc("stage_records_out_total", "Records that the stage put out.", stageLabels...)
	descStageFailed  = desc("stage_failed_records_total", "Records that failed for good at the stage.", stageLabels...)
	descStageRetries = desc("stage_retries_total", "Times that a record was tried again.", stageLabels...)
	descStageFenced  = desc("fenced_total", "Times that this owner of the stage was refused for a newer one.", stageLabels...)
	descStageFlight  = desc("stage_in_flight_records", "Records inside the stage.", stageLabels...)
	descStageOpen    = desc("stage_open", "1 while the stage has its service and its edges.", stageLabels...)

	descLaneRead    = desc("lane_read_records_total", "Records read from the lane: the sum of all outcomes and of those in flight.", laneLabels...)
	descLaneSettled = desc("lane_settled_records_total", "Records of the lane by how they ended.", append(laneLabels, "outcome")...)
	descLaneFlight  = desc("lane_in_flight_records", "Records of the lane that have not settled.", laneLabels...)
	descLaneLag     = desc("lane_uncheckpointed_records", "Settled records of the lane that no checkpoint at the routers covers yet.", laneLabels...)
)

// meter is what the ops port knows of the sidecar. It may be asked before there is anything to know.
type meter struct {
	certs *certs.Store // nil without certificates

	mu       sync.Mutex
	session  *control.Session // guarded by mu
	engine   dataPlane        // guarded by mu
	services int              // guarded by mu
}

func (m *meter) observe(session *control.Session, engine dataPlane) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.session, m.engine = session, engine
}

func (m *meter) discovered(services int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.services = services
}

func (m *meter) status() control.Status {
	m.mu.Lock()
	session := m.session
	m.mu.Unlock()
	if session == nil {
		return control.Status{Problem: errors.New("starting")}
	}
	return session.Status()
}

// registered is a readiness check.
func (m *meter) registered(context.Context) error {
	if st := m.status(); !st.Registered {
		return st.Problem
	}
	return nil
}

// applied is a readiness check.
func (m *meter) applied(context.Context) error {
	if !m.status().Applied {
		return errors.New("the routers have not said yet what to run")
	}
	return nil
}

// Describe sends nothing: what there is to measure changes with the assignments.
func (m *meter) Describe(chan<- *prometheus.Desc) {}

// Collect reads the state of the session and of all stages at this moment.
func (m *meter) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	engine, services := m.engine, m.services
	m.mu.Unlock()
	st := m.status()
	c := collection{}
	c.gauge(descRegistered, flag(st.Registered))
	c.count(descRegistrations, float64(st.Registrations))
	c.gauge(descServices, float64(services))
	if !st.LastAnswer.IsZero() {
		c.gauge(descAnswer, float64(st.LastAnswer.UnixMilli())/1000)
	}
	if m.certs != nil {
		c.gauge(descCertificate, float64(m.certs.End().Unix()))
	}
	if engine != nil {
		stages, lanes := engine.Reports()
		for _, s := range stages {
			c.stage(s)
		}
		c.lanes(lanes)
	}
	for _, s := range c {
		out <- prometheus.MustNewConstMetric(s.desc, s.kind, s.value, s.labels...)
	}
}

// collection sums what has the same labels: two generations of a stage may run side by side.
type collection map[string]*sample

type sample struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	value  float64
	labels []string
}

func (c collection) add(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels []string) {
	for i, l := range labels {
		labels[i] = strings.ToValidUTF8(l, "\uFFFD")
	}
	key := d.String() + "\x00" + strings.Join(labels, "\x00")
	s := c[key]
	if s == nil {
		s = &sample{desc: d, kind: kind, labels: labels}
		c[key] = s
	}
	s.value += value
}

func (c collection) count(d *prometheus.Desc, value float64, labels ...string) {
	c.add(d, prometheus.CounterValue, value, labels)
}

func (c collection) gauge(d *prometheus.Desc, value float64, labels ...string) {
	c.add(d, prometheus.GaugeValue, value, labels)
}

func (c collection) stage(r *controlv1.StageReport) {
	p, st := r.GetPipeline(), r.GetStatus()
	name := st.GetName()
	c.count(descStageIn, float64(st.GetRecordsIn()), p, name)
	c.count(descStageOut, float64(st.GetRecordsOut()), p, name)
	c.count(descStageFailed, float64(st.GetFailed()), p, name)
	c.count(descStageRetries, float64(st.GetRetries()), p, name)
	c.count(descStageFenced, float64(st.GetFenced()), p, name)
	c.gauge(descStageFlight, float64(st.GetInFlight()), p, name)
	c.gauge(descStageOpen, flag(st.GetOpen()), p, name)
	for _, e := range st.GetEdges() {
		c.count(descEdgeRecords, float64(e.GetRecords()), p, name, e.GetTo())
		c.count(descEdgeBytes, float64(e.GetBytes()), p, name, e.GetTo())
		c.gauge(descEdgeOutstanding, float64(e.GetOutstandingRecords()), p, name, e.GetTo())
		c.gauge(descEdgeOutBytes, float64(e.GetOutstandingBytes()), p, name, e.GetTo())
		c.count(descEdgeBlocked, float64(e.GetBlockedMillis())/1000, p, name, e.GetTo())
	}
}

func (c collection) lanes(reports []*controlv1.LaneReport) {
	for i, r := range reports {
		st := r.GetStatus()
		p, source, partition := r.GetPipeline(), st.GetSourceStage(), st.GetPartition()
		if i >= maxLaneSeries {
			partition = moreLanes
		}
		n := st.GetCounts()
		c.count(descLaneRead, float64(n.GetRead()), p, source, partition)
		c.gauge(descLaneFlight, float64(n.GetInFlight()), p, source, partition)
		if settled, stored := st.GetSettledThrough(), st.GetCheckpointedThrough(); settled > stored {
			c.gauge(descLaneLag, float64(settled-stored), p, source, partition)
		} else {
			c.gauge(descLaneLag, 0, p, source, partition)
		}
		for outcome, value := range map[string]uint64{
			"acknowledged": n.GetAcknowledged(), "dead": n.GetDead(), "filtered": n.GetFiltered(),
			"unrouted": n.GetUnrouted(), "shed": n.GetShed(),
		} {
			c.count(descLaneSettled, float64(value), p, source, partition, outcome)
		}
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
