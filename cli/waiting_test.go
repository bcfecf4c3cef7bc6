package cli_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/cli"
	"github.com/conveyor-etl/conveyor/internal/rpc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// missingCopies is a cluster whose dead letters do not get their copies.
type missingCopies struct {
	controlv1.UnimplementedAdminServiceServer
}

func (missingCopies) GetCluster(context.Context, *controlv1.GetClusterRequest) (*controlv1.GetClusterResponse, error) {
	return &controlv1.GetClusterResponse{
		Servers: []*controlv1.ClusterServer{{Id: "1-a", Address: "one:50051", Voter: true}}, LetterCopiesProblem: "the copy at server 2-b is behind",
	}, nil
}

func (missingCopies) RemoveRouter(context.Context, *controlv1.RemoveRouterRequest) (*controlv1.RemoveRouterResponse, error) {
	return &controlv1.RemoveRouterResponse{}, nil
}

func TestClusterChanges_SayWhatTheyWaitForAfterAFewSeconds(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := rpc.NewServer(rpc.ServerConfig{})
	controlv1.RegisterAdminServiceServer(srv, missingCopies{})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, lis, time.Second) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	var out, errOut bytes.Buffer
	env := cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut, Getenv: func(string) string { return "" }}
	code := cli.Run(t.Context(), env, []string{"cluster", "remove", "1", "--server", lis.Addr().String(), "--timeout", "7s"})
	if code != 1 || out.String() != "router/1-a removed\n" {
		t.Errorf("exit code %d, and it prints %q", code, out.String())
	}
	for _, want := range []string{
		"waiting until the dead letters have all their copies: the copy at server 2-b is behind\n",
		"stop the router at one:50051 and empty its data directory", "error[TIMEOUT]",
	} {
		if !strings.Contains(errOut.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, errOut.String())
		}
	}
}
