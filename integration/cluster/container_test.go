//go:build linux

package cluster_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/api/types/network"
	moby "github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	tcnetwork "github.com/testcontainers/testcontainers-go/network"

	"github.com/conveyor-etl/conveyor/integration/cluster"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

// image is what all containers of the tests run. It has a static router and nothing else.
var image = struct {
	once sync.Once
	name string
}{name: fmt.Sprintf("conveyor-router-test:%d", os.Getpid())}

// removeImage removes the image, if a test made it.
func removeImage() error {
	image.once.Do(func() { image.name = "" })
	if image.name == "" {
		return nil
	}
	ctx := context.Background()
	engine, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err != nil {
		return err
	}
	defer engine.Close()
	_, err = engine.ImageRemove(ctx, image.name, moby.ImageRemoveOptions{Force: true, PruneChildren: true})
	return err
}

// containers returns what makes machines that are containers in a network of their own.
func containers(t *testing.T) func(cluster.Router) cluster.Machine {
	t.Helper()
	engine, err := testcontainers.NewDockerClientWithOpts(t.Context())
	if err != nil {
		t.Fatalf("no engine for containers: %v", err)
	}
	t.Cleanup(func() { engine.Close() })
	image.once.Do(func() { build(t, engine) })
	net, first := containerNetwork(t)
	n := 0
	return func(r cluster.Router) cluster.Machine {
		n++
		c := &box{t: t, engine: engine, network: net, name: r.Name, ip: ipAfter(first, 10+n)}
		c.create(r)
		return c
	}
}

func ipAfter(first netip.Addr, n int) netip.Addr {
	a := first.As4()
	a[3] += byte(n)
	return netip.AddrFrom4(a)
}

// containerNetwork makes a network with addresses that nobody has.
func containerNetwork(t *testing.T) (*testcontainers.DockerNetwork, netip.Addr) {
	t.Helper()
	for tries := 0; ; tries++ {
		first := netip.AddrFrom4([4]byte{10, byte(100 + rand.IntN(100)), byte(rand.IntN(256)), 0})
		net, err := tcnetwork.New(t.Context(), tcnetwork.WithIPAM(&network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.PrefixFrom(first, 24)}}}))
		if err == nil {
			t.Cleanup(func() {
				if err := net.Remove(context.Background()); err != nil {
					t.Errorf("remove the network: %v", err)
				}
			})
			return net, first
		}
		if tries == 10 {
			t.Fatal(err)
		}
	}
}

// build makes the image from the working tree.
func build(t *testing.T, engine *testcontainers.DockerClient) {
	t.Helper()
	root, err := proc.Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "conveyor-router")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", path, "./router/cmd/conveyor-router")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the router: %v\n%s", err, said)
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{"Dockerfile", []byte("FROM scratch\nCOPY conveyor-router /conveyor-router\nENTRYPOINT [\"/conveyor-router\"]\n")},
		{"conveyor-router", binary},
	} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	built, err := engine.ImageBuild(t.Context(), &archive, moby.ImageBuildOptions{Tags: []string{image.name}, Remove: true, ForceRemove: true})
	if err != nil {
		t.Fatalf("build the image: %v", err)
	}
	defer built.Body.Close()
	said, err := io.ReadAll(built.Body)
	if err != nil || bytes.Contains(said, []byte(`"error"`)) {
		t.Fatalf("build the image: %v\n%s", err, said)
	}
}

// box is a machine that is a container.
type box struct {
	t       *testing.T
	engine  *testcontainers.DockerClient
	network *testcontainers.DockerNetwork
	c       testcontainers.Container
	name    string
	ip      netip.Addr
}

var _ cluster.Machine = (*box)(nil)

func (b *box) create(r cluster.Router) {
	b.t.Helper()
	env := map[string]string{
		"DATA_DIR": "/data", "TLS_CERT_FILE": "/certs/tls.crt", "TLS_KEY_FILE": "/certs/tls.key", "TLS_CA_FILE": "/certs/ca.crt",
	}
	for _, e := range r.Env {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	var files []testcontainers.ContainerFile
	for _, name := range []string{"ca.crt", "tls.crt", "tls.key"} {
		files = append(files, testcontainers.ContainerFile{HostFilePath: filepath.Join(r.Certs, name), ContainerFilePath: "/certs/" + name, FileMode: 0o600})
	}
	var err error
	b.c, err = testcontainers.GenericContainer(b.t.Context(), testcontainers.GenericContainerRequest{ContainerRequest: testcontainers.ContainerRequest{
		Image: image.name, Env: env, Files: files, Networks: []string{b.network.Name},
		EndpointSettingsModifier: func(m map[string]*network.EndpointSettings) { m[b.network.Name] = b.endpoint() },
	}})
	if err != nil {
		b.t.Fatalf("create %s: %v", b.name, err)
	}
	b.t.Cleanup(func() {
		if b.t.Failed() {
			b.t.Logf("--- what %s said:\n%s", b.name, b.log())
		}
		if err := testcontainers.TerminateContainer(b.c, testcontainers.StopTimeout(0)); err != nil {
			b.t.Errorf("remove %s: %v", b.name, err)
		}
	})
}

// endpoint is how it is plugged in: under its name, and with an address that stays when it starts again.
func (b *box) endpoint() *network.EndpointSettings {
	return &network.EndpointSettings{Aliases: []string{b.name}, IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: b.ip}}
}

func (b *box) log() string {
	logs, err := b.c.Logs(context.Background())
	if err != nil {
		return err.Error()
	}
	defer logs.Close()
	said, err := io.ReadAll(logs)
	return fmt.Sprint(string(said[max(0, len(said)-64<<10):]), err)
}

// must fails the test when the engine refuses.
func (b *box) must(what string, err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatalf("%s %s: %v", what, b.name, err)
	}
}

func (b *box) Name() string { return b.name }
func (b *box) IP() string   { return b.ip.String() }

func (b *box) Start() {
	b.t.Helper()
	b.must("start", b.c.Start(b.t.Context()))
}

func (b *box) Stop() {
	b.t.Helper()
	b.signal("SIGTERM")
	if code := b.ended(); code != 0 {
		b.t.Fatalf("%s ended with code %d after SIGTERM", b.name, code)
	}
}

func (b *box) Kill() {
	b.t.Helper()
	b.signal("SIGKILL")
	b.ended()
}

func (b *box) signal(name string) {
	b.t.Helper()
	_, err := b.engine.ContainerKill(b.t.Context(), b.c.GetContainerID(), moby.ContainerKillOptions{Signal: name})
	b.must("send "+name+" to", err)
}

// ended waits until the router has ended, and returns its exit code.
func (b *box) ended() (code int) {
	b.t.Helper()
	proc.Until(b.t, func() string {
		state, err := b.c.State(b.t.Context())
		switch {
		case err != nil:
			return err.Error()
		case state.Running:
			return b.name + " still runs"
		}
		code = state.ExitCode
		return ""
	})
	return code
}

func (b *box) Pause() {
	b.t.Helper()
	_, err := b.engine.ContainerPause(b.t.Context(), b.c.GetContainerID(), moby.ContainerPauseOptions{})
	b.must("pause", err)
}

func (b *box) Resume() {
	b.t.Helper()
	_, err := b.engine.ContainerUnpause(b.t.Context(), b.c.GetContainerID(), moby.ContainerUnpauseOptions{})
	b.must("resume", err)
}

func (b *box) Unplug() {
	b.t.Helper()
	_, err := b.engine.NetworkDisconnect(b.t.Context(), b.network.ID, moby.NetworkDisconnectOptions{Container: b.c.GetContainerID(), Force: true})
	b.must("unplug", err)
}

func (b *box) Plug() {
	b.t.Helper()
	_, err := b.engine.NetworkConnect(b.t.Context(), b.network.ID, moby.NetworkConnectOptions{Container: b.c.GetContainerID(), EndpointConfig: b.endpoint()})
	b.must("plug", err)
}

func (b *box) Move() {
	b.t.Helper()
	b.Unplug()
	b.ip = ipAfter(b.ip, 40)
	b.Plug()
}
