module github.com/conveyor-etl/conveyor/cli

go 1.26.0

require (
	github.com/conveyor-etl/conveyor/buffer v0.1.0
	github.com/conveyor-etl/conveyor/client v0.1.0
	github.com/conveyor-etl/conveyor/connectors v0.1.0
	github.com/conveyor-etl/conveyor/dlq v0.1.0
	github.com/conveyor-etl/conveyor/dsl v0.1.0
	github.com/conveyor-etl/conveyor/internal v0.1.0
	github.com/conveyor-etl/conveyor/protos v0.1.0
	github.com/conveyor-etl/conveyor/raftstore v0.1.0
	github.com/conveyor-etl/conveyor/router v0.1.0
	github.com/conveyor-etl/conveyor/sdk v0.1.0
	github.com/conveyor-etl/conveyor/sidecar v0.1.0
)

replace github.com/conveyor-etl/conveyor/protos => ../protos

replace github.com/conveyor-etl/conveyor/dsl => ../dsl

replace github.com/conveyor-etl/conveyor/buffer => ../buffer

replace github.com/conveyor-etl/conveyor/raftstore => ../raftstore

replace github.com/conveyor-etl/conveyor/dlq => ../dlq

replace github.com/conveyor-etl/conveyor/internal => ../internal

replace github.com/conveyor-etl/conveyor/client => ../client

replace github.com/conveyor-etl/conveyor/sdk => ../sdk

replace github.com/conveyor-etl/conveyor/connectors => ../connectors

replace github.com/conveyor-etl/conveyor/router => ../router

replace github.com/conveyor-etl/conveyor/sidecar => ../sidecar
