package embed

import (
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// JetStream returns what dlq.Open takes, on a connection of its own that Close closes. Who uses it need not know NATS.
func (s *Server) JetStream() (jetstream.JetStream, error) {
	conn, err := s.Connect()
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("open JetStream of the embedded NATS server: %w", err)
	}
	return js, nil
}
