package state

import (
	"math"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// FeatureLevel is that of this version: it knows every kind of command of that level and of those below. Whoever adds a kind, or gives a known one another meaning,
// raises it, from the first release on: that has all of level 1.
const FeatureLevel = 1

// since says from which level on a kind of command is known. A router stops at a command that it does not know, so one is proposed only when all of them have its level.
var since = map[protoreflect.Name]uint32{
	"found":               1,
	"put_resources":       1,
	"delete_resource":     1,
	"open_session":        1,
	"end_session":         1,
	"set_endpoints":       1,
	"adopt_plan":          1,
	"drain_pipeline":      1,
	"cut_pipeline":        1,
	"restart_pipeline":    1,
	"assign":              1,
	"end_assignments":     1,
	"store_checkpoints":   1,
	"release_pipeline":    1,
	"announce_router":     1,
	"forget_router":       1,
	"store_letter_mark":   1,
	"open_client_session": 1,
	"end_client_session":  1,
	"answer_client":       1,
	"adopt_signing_key":   1,
}

// Level is the feature level that a router must have to apply a command. No router has that of a command of an unknown kind.
func Level(c *statepb.Command) uint32 {
	m := c.ProtoReflect()
	kind := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind"))
	if kind == nil {
		return math.MaxUint32
	}
	if level, known := since[kind.Name()]; known {
		return level
	}
	return math.MaxUint32
}

// CommonLevel is the feature level that all members have: the lowest of what they announced, and the first for one that has not announced itself yet. self is the id of
// this router.
func (v *View) CommonLevel(members []string, self string) uint32 {
	common := uint32(FeatureLevel)
	for _, id := range members {
		if id != self {
			common = min(common, max(v.Routers[id].GetFeatureLevel(), 1))
		}
	}
	return common
}
