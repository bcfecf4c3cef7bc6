package router

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

const opsStopTimeout = 2 * time.Second

// runOps serves the side port, on its own listener or on the one that was given.
func (r *Router) runOps(ctx context.Context) error {
	if r.opsLis == nil {
		return r.ops.Run(ctx)
	}
	srv := &http.Server{Handler: r.ops.Handler(), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(r.opsLis) }() // ends with Shutdown or Close below
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", r.opsLis.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), opsStopTimeout)
	defer cancel()
	err := srv.Shutdown(stop)
	if err != nil {
		err = srv.Close()
	}
	if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

func (r *Router) registerMetrics() error {
	r.calls = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "conveyor_router_calls_total", Help: "Calls answered, by method and gRPC code."}, []string{"method", "code"})
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			select {
			case <-r.ready:
				return value()
			default:
				return 0
			}
		})
	}
	var errs []error
	for _, c := range []prometheus.Collector{
		r.calls,
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "conveyor_router_connections_refused_total", Help: "Connections closed at once because there were too many."}, func() float64 {
			select {
			case <-r.ready:
				return float64(r.server.Refused())
			default:
				return 0
			}
		}),
		gauge("conveyor_router_leader", "1 while this router leads its cluster.", func() float64 {
			if r.store.Leadership().Leader {
				return 1
			}
			return 0
		}),
		gauge("conveyor_router_applied_index", "Log index of the last command applied.", func() float64 { return float64(r.machine.Index()) }),
		gauge("conveyor_router_states_differ", "Routers whose state is not that of others after the same commands, as far as this one has heard.", func() float64 { return float64(len(r.divergences())) }),
		gauge("conveyor_router_disk_low", "1 while too little disk is free for anything to be changed.", func() float64 {
			if r.store.LowDisk() != nil {
				return 1
			}
			return 0
		}),
		gauge("conveyor_router_sessions", "Sidecars with a live session.", func() float64 { return float64(len(r.machine.View().Sessions)) }),
		gauge("conveyor_router_sessions_kept", "Silent sessions that are kept over their time, since too many fell silent at once.", func() float64 { return float64(len(r.controller.Leases().Back())) }),
		gauge("conveyor_router_resources", "Resources kept.", func() float64 { return float64(len(r.machine.View().Resources)) }),
		gauge("conveyor_router_pipelines", "Pipelines that have begun and are not deleted.", func() float64 { return float64(len(r.machine.View().Pipelines)) }),
		gauge("conveyor_router_assignments", "Stages assigned to sidecars.", func() float64 { return float64(len(r.machine.View().Assignments)) }),
		gauge("conveyor_router_stages_unassigned", "Stages that no sidecar can run now.", func() float64 { return float64(r.controller.Unplaced()) }),
	} {
		errs = append(errs, r.registry.Register(c))
	}
	if r.certs != nil {
		errs = append(errs, r.registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "conveyor_router_certificate_end_timestamp_seconds", Help: "When the certificate in use ends, or the authority that vouches for it.",
		}, func() float64 { return float64(r.certs.End().Unix()) })))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

func (r *Router) countUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	r.calls.WithLabelValues(info.FullMethod, status.Code(err).String()).Inc()
	return resp, err
}

func (r *Router) countStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	err := handler(srv, stream)
	r.calls.WithLabelValues(info.FullMethod, status.Code(err).String()).Inc()
	return err
}
