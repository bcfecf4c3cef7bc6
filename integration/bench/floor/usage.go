package main

import (
	"runtime"
	"sync"
	"syscall"
	"time"
)

// usage is what a process did and spent from its first message to its last.
type usage struct {
	Records int     `json:"records"` // that it handled, where it looks at records
	Dropped int     `json:"dropped"`
	Bytes   int64   `json:"bytes"` // of their values
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpu"` // seconds, user and system
	Mallocs uint64  `json:"mallocs"`
	RSS     int64   `json:"rss"` // KiB, at most
	P50     float64 `json:"p50"` // milliseconds from sending a batch to its ack
	P99     float64 `json:"p99"`
}

// meter measures one process.
type meter struct {
	once    sync.Once
	began   time.Time
	cpu     float64
	mallocs uint64
}

// start begins the measurement at its first call.
func (m *meter) start() {
	m.once.Do(func() {
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		m.mallocs = mem.Mallocs
		m.cpu, _ = spent()
		m.began = time.Now()
	})
}

// stop fills in what was spent since start.
func (m *meter) stop(u *usage) {
	u.Seconds = time.Since(m.began).Seconds()
	cpu, rss := spent()
	u.CPU, u.RSS = cpu-m.cpu, rss
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	u.Mallocs = mem.Mallocs - m.mallocs
}

// spent returns the CPU seconds of this process so far and its largest size in KiB.
func spent() (cpu float64, rss int64) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0, 0
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(r.Utime) + seconds(r.Stime), r.Maxrss
}
