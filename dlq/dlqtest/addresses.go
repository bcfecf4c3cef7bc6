// Package dlqtest helps to test with clusters of dead-letter servers.
package dlqtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Ports that systems do not give to connections: one of those may be taken while a server is away. Those below are of other tests.
const firstPort, lastPort = 30_000, 32_700

// FreeAddresses returns n different addresses of this machine at which nothing listens, for servers that are stopped and started again. No other
// caller gets them before this process ends, except in one that has no place for the locks: there only chance keeps processes apart.
func FreeAddresses(t testing.TB, n int) []string {
	t.Helper()
	var out []string
	for range 100 * n {
		if len(out) == n {
			return out
		}
		port := firstPort + rand.IntN(lastPort-firstPort)
		if !reserve(t, port) {
			continue
		}
		// What is reserved and of no use here is of none to others either.
		if lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			out = append(out, lis.Addr().String())
			_ = lis.Close()
		}
	}
	t.Fatalf("no %d free addresses", n)
	return nil
}
