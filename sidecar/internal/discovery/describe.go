package discovery

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/internal/rpc"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// The bounds of what one address may say. All endpoints together go into one command of the routers' log, of at most 512 KiB.
const (
	describeTimeout  = 2 * time.Second
	maxAnswerBytes   = 1 << 20
	maxAbilities     = 64
	maxNameBytes     = 128
	maxSchemaBytes   = 16 << 10
	maxReportBytes   = 320 << 10
	maxReportSchemas = 160 << 10
)

var (
	errNoService = errors.New("it speaks gRPC and is no service of Conveyor")
	errDraining  = errors.New("its health check says that it is not serving")
)

// dial prepares a connection to a service on loopback. It sends no keep-alive pings, which many servers take for an attack: on loopback the
// system tells when a connection is dead.
func dial(address string) (*grpc.ClientConn, error) {
	return rpc.Dial("passthrough:///"+address, rpc.DialConfig{MaxMessageBytes: maxAnswerBytes},
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: math.MaxInt64}),
		grpc.WithUserAgent("conveyor-sidecar"))
}

// description is what an address offers, and what is wrong with the rest of its answer.
type description struct {
	abilities []*conveyorv1.Ability
	faults    []error
}

// add takes the sound abilities of one answer. Every Describe may tell of all that the address offers, so the same may come again.
func (d *description) add(abilities []*conveyorv1.Ability) {
	for _, a := range abilities {
		if d.has(a) {
			continue
		}
		if err := check(a); err != nil {
			d.faults = append(d.faults, err)
			continue
		}
		if len(d.abilities) == maxAbilities {
			d.faults = append(d.faults, fmt.Errorf("more than %d abilities", maxAbilities))
			return
		}
		if n := len(a.GetConfigSchema()); n > maxSchemaBytes {
			d.faults = append(d.faults, fmt.Errorf("config schema of %s has %d bytes, more than %d: left out", name(a), n, maxSchemaBytes))
			a.ConfigSchema = nil
		}
		d.abilities = append(d.abilities, a)
	}
}

func (d *description) has(a *conveyorv1.Ability) bool {
	for _, b := range d.abilities {
		if a.GetKind() == b.GetKind() && a.GetType() == b.GetType() {
			return true
		}
	}
	return false
}

func check(a *conveyorv1.Ability) error {
	switch a.GetKind() {
	case conveyorv1.ServiceKind_SERVICE_KIND_SOURCE, conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM, conveyorv1.ServiceKind_SERVICE_KIND_SINK:
	default:
		return fmt.Errorf("ability of kind %d, which this version does not know", a.GetKind())
	}
	for what, text := range map[string]string{"type": a.GetType(), "version": a.GetVersion()} {
		if len(text) > maxNameBytes || strings.ContainsFunc(text, unicode.IsControl) {
			return fmt.Errorf("%s of an ability is longer than %d bytes or not printable", what, maxNameBytes)
		}
	}
	return nil
}

// describe asks what the address behind conn offers. A service that offers nothing is errNoService.
func describe(ctx context.Context, conn grpc.ClientConnInterface) (*description, error) {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	d := &description{}
	for _, ask := range []func() ([]*conveyorv1.Ability, error){
		func() ([]*conveyorv1.Ability, error) {
			r, err := conveyorv1.NewSourceServiceClient(conn).Describe(ctx, &conveyorv1.SourceServiceDescribeRequest{})
			return r.GetAbilities(), err
		},
		func() ([]*conveyorv1.Ability, error) {
			r, err := conveyorv1.NewTransformServiceClient(conn).Describe(ctx, &conveyorv1.TransformServiceDescribeRequest{})
			return r.GetAbilities(), err
		},
		func() ([]*conveyorv1.Ability, error) {
			r, err := conveyorv1.NewSinkServiceClient(conn).Describe(ctx, &conveyorv1.SinkServiceDescribeRequest{})
			return r.GetAbilities(), err
		},
	} {
		abilities, err := ask()
		switch {
		case status.Code(err) == codes.Unimplemented:
		case err != nil:
			return nil, fmt.Errorf("ask what it offers: %w", err)
		default:
			d.add(abilities)
		}
	}
	if len(d.abilities) == 0 {
		return nil, errors.Join(append([]error{errNoService}, d.faults...)...)
	}
	// Health is optional; only a clear no counts.
	health, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err == nil && health.GetStatus() == healthpb.HealthCheckResponse_NOT_SERVING {
		return nil, errDraining
	}
	return d, nil
}

// name says for people what an ability is.
func name(a *conveyorv1.Ability) string {
	kind := strings.ToLower(strings.TrimPrefix(a.GetKind().String(), "SERVICE_KIND_"))
	if a.GetType() == "" {
		return kind
	}
	return kind + "/" + a.GetType()
}

func names(abilities []*conveyorv1.Ability) string {
	out := make([]string, len(abilities))
	for i, a := range abilities {
		out[i] = name(a)
	}
	return strings.Join(out, " ")
}
