module github.com/conveyor-etl/conveyor/router

go 1.26.0

require (
	github.com/conveyor-etl/conveyor/dlq v0.1.0
	github.com/conveyor-etl/conveyor/dsl v0.1.0
	github.com/conveyor-etl/conveyor/internal v0.1.0
	github.com/conveyor-etl/conveyor/protos v0.1.0
	github.com/conveyor-etl/conveyor/raftstore v0.1.0
)

replace github.com/conveyor-etl/conveyor/protos => ../protos

replace github.com/conveyor-etl/conveyor/dsl => ../dsl

replace github.com/conveyor-etl/conveyor/raftstore => ../raftstore

replace github.com/conveyor-etl/conveyor/dlq => ../dlq

replace github.com/conveyor-etl/conveyor/internal => ../internal
