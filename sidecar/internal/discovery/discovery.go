// Package discovery finds the services beside a sidecar: it looks at ports of loopback again and again and asks what they offer.
package discovery

import "time"

// MaxPorts is how many ports are looked at.
const MaxPorts = 64

// DefaultInterval is how often a port is looked at.
const DefaultInterval = time.Second
