package rpc_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/internal/rpc"
)

func TestCheckListen(t *testing.T) {
	cases := []struct {
		host   string
		hasTLS bool
		ok     bool
	}{
		{"127.0.0.1", false, true},
		{"127.9.9.9", false, true},
		{"::1", false, true},
		{"localhost", false, true},
		{"LOCALHOST.", false, true},
		{"", false, false},
		{"0.0.0.0", false, false},
		{"::", false, false},
		{"10.0.0.1", false, false},
		{"localhost.example.com", false, false},
		{"127.0.0.1.example.com", false, false},
		{"", true, true},
		{"10.0.0.1", true, true},
	}
	for _, tc := range cases {
		err := rpc.CheckListen(tc.host, tc.hasTLS)
		if (err == nil) != tc.ok {
			t.Errorf("CheckListen(%q, %v) = %v, want ok %v", tc.host, tc.hasTLS, err, tc.ok)
		}
		if err != nil && !strings.Contains(err.Error(), "conveyor cluster init") {
			t.Errorf("CheckListen(%q): %q does not say what to do", tc.host, err)
		}
	}
}

func TestCheckDial(t *testing.T) {
	cases := []struct {
		target string
		ok     bool
	}{
		{"localhost:50051", true},
		{"127.0.0.1:50051", true},
		{"[::1]:50051", true},
		{"[::ffff:127.0.0.1]:50051", true},
		{"dns:///localhost:50051", true},
		{"dns:localhost:50051", true},
		{"passthrough:///127.0.0.1:50051", true},
		{"ipv4:127.0.0.1:1,127.0.0.2:2", true},
		{"unix:/run/x.sock", true},
		{"unix:///run/x.sock", true},
		{"unix-abstract:x", true},
		{"conveyor-etl-router:50051", false},
		{"10.0.0.1:50051", false},
		{"169.254.169.254:80", false},
		{"dns:///router:50051", false},
		{"dns://8.8.8.8/localhost:50051", false},
		{"ipv4:127.0.0.1:1,10.0.0.1:2", false},
		{"xds:///localhost:1", false},
		{"127.1:50051", false},
		{"", false},
	}
	for _, tc := range cases {
		err := rpc.CheckDial(tc.target, false)
		var refused *rpc.PlaintextError
		if (err == nil) != tc.ok || err != nil && !errors.As(err, &refused) {
			t.Errorf("CheckDial(%q) = %v, want ok %v", tc.target, err, tc.ok)
		}
		if err := rpc.CheckDial(tc.target, true); err != nil {
			t.Errorf("CheckDial(%q) with TLS = %v", tc.target, err)
		}
	}
}

func TestAddressRules(t *testing.T) {
	cases := []struct {
		addr              string
		loopback, private bool
	}{
		{"127.0.0.1", true, true},
		{"::1", true, true},
		{"::ffff:127.0.0.1", true, true},
		{"10.1.2.3", false, true},
		{"172.16.0.1", false, true},
		{"::ffff:192.168.0.1", false, true},
		{"fd00::1", false, true},
		{"169.254.169.254", false, false},
		{"fe80::1", false, false},
		{"8.8.8.8", false, false},
		{"0.0.0.0", false, false},
		{"::", false, false},
		{"224.0.0.1", false, false},
	}
	for _, tc := range cases {
		addr := netip.MustParseAddr(tc.addr)
		if got := rpc.LoopbackOnly(addr) == nil; got != tc.loopback {
			t.Errorf("LoopbackOnly(%s) accepts: %v", addr, got)
		}
		if got := rpc.PrivateOnly(addr) == nil; got != tc.private {
			t.Errorf("PrivateOnly(%s) accepts: %v", addr, got)
		}
	}
}
