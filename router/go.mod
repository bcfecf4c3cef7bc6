module github.com/conveyor-etl/conveyor/router

go 1.26.0

require github.com/conveyor-etl/conveyor/internal v0.1.0

require (
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/grpc v1.85.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/conveyor-etl/conveyor/protos => ../protos

replace github.com/conveyor-etl/conveyor/dsl => ../dsl

replace github.com/conveyor-etl/conveyor/raftstore => ../raftstore

replace github.com/conveyor-etl/conveyor/dlq => ../dlq

replace github.com/conveyor-etl/conveyor/internal => ../internal
