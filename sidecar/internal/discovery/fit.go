package discovery

import (
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// fit keeps a report within its bounds: beyond them config schemas are left out first, then whole endpoints, those of the highest ports
// first.
func (s *Scanner) fit(endpoints []*controlv1.Endpoint) []*controlv1.Endpoint {
	total, schemas := 0, 0
	for i, e := range endpoints {
		size := proto.Size(e)
		if n := schemaBytes(e); schemas+n > maxReportSchemas {
			s.log.Warn("config schemas of all services together are too large, left out", "address", e.GetAddress(), "bytes", n)
			e = withoutSchemas(e)
			endpoints[i], size = e, proto.Size(e)
		} else {
			schemas += n
		}
		if total += size; total > maxReportBytes {
			s.log.Warn("services describe too much, left out from this port on", "port", e.GetPort(), "bytes", total)
			return endpoints[:i]
		}
	}
	return endpoints
}

func schemaBytes(e *controlv1.Endpoint) int {
	n := 0
	for _, a := range e.GetAbilities() {
		n += len(a.GetConfigSchema())
	}
	return n
}

func withoutSchemas(e *controlv1.Endpoint) *controlv1.Endpoint {
	out := &controlv1.Endpoint{Address: e.GetAddress(), Port: e.GetPort()}
	for _, a := range e.GetAbilities() {
		bare := proto.Clone(a).(*conveyorv1.Ability)
		bare.ConfigSchema = nil
		out.Abilities = append(out.Abilities, bare)
	}
	return out
}
