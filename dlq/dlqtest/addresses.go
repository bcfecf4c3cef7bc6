// Package dlqtest helps to test with clusters of dead-letter servers.
package dlqtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Ports that systems do not give to connections: one of those may be taken while a server is away.
const firstPort, lastPort = 25_000, 32_000

// FreeAddresses returns n different addresses of this machine at which nothing listens, for servers that are stopped and started again.
func FreeAddresses(t testing.TB, n int) []string {
	t.Helper()
	var out []string
	var held []net.Listener // until all are known, so that none comes twice
	defer func() {
		for _, lis := range held {
			_ = lis.Close()
		}
	}()
	for range 100 * n {
		if len(out) == n {
			return out
		}
		lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", firstPort+rand.IntN(lastPort-firstPort)))
		if err != nil {
			continue
		}
		held, out = append(held, lis), append(out, lis.Addr().String())
	}
	t.Fatalf("no %d free addresses", n)
	return nil
}
