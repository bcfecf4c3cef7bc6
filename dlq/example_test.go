package dlq_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/dlq/embed"
)

func Example() {
	dir, err := os.MkdirTemp("", "letters")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	server, err := embed.Open(embed.Config{Dir: filepath.Join(dir, "nats")})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	js, err := server.JetStream()
	if err != nil {
		log.Fatal(err)
	}

	ctx := context.Background()
	store, err := dlq.Open(ctx, js, dlq.Config{Dir: filepath.Join(dir, "mark")})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	_, err = store.Append(ctx, []dlq.Letter{{
		RecordID: "users/0/17", Namespace: "default", Pipeline: "user-analytics", Generation: 1, Stage: "enrich-geo",
		Class: "permanent", Code: "INVALID_ARGUMENT", Message: "no such country", Record: []byte(`{"country": "XX"}`),
	}})
	if err != nil {
		log.Fatal(err)
	}
	for letter, err := range store.List(ctx, dlq.Query{Pipeline: "user-analytics"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d %s %s: %s\n", letter.ID, letter.Stage, letter.Message, letter.Record)
	}
	// Output: 1 enrich-geo no such country: {"country": "XX"}
}
