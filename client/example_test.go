package client_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/conveyor-etl/conveyor/client"
)

func Example() {
	ctx := context.Background()
	c, err := client.Dial(ctx, []string{"localhost:1"}, client.WithRetryFor(0), client.WithTimeout(10*time.Second))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, err = c.PipelineStatus(ctx, "default", "orders")
	switch {
	case errors.Is(err, client.ErrNotFound):
		fmt.Println("there is no such pipeline")
	case errors.Is(err, client.ErrUnreachable):
		fmt.Println("no router runs there")
	}
	// Output: no router runs there
}
