module github.com/conveyor-etl/conveyor/integration

go 1.26.0

require (
	github.com/anishathalye/porcupine v1.3.1
	github.com/conveyor-etl/conveyor/client v0.1.0
	github.com/conveyor-etl/conveyor/dsl v0.1.0
	github.com/conveyor-etl/conveyor/protos v0.1.0
	github.com/conveyor-etl/conveyor/sdk v0.1.0
	github.com/google/go-cmp v0.7.0
	go.uber.org/goleak v1.3.0
	google.golang.org/grpc v1.85.0
)

require (
	cel.dev/cel-go v0.33.2 // indirect
	cel.dev/expr v0.25.3 // indirect
	github.com/antlr4-go/antlr/v4 v4.13.1 // indirect
	github.com/planetscale/vtprotobuf v0.6.1-0.20240319094008-0393e58bdf10 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	go.yaml.in/yaml/v4 v4.0.0 // indirect
	golang.org/x/exp v0.0.0-20240823005443-9b4947da3948 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
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

replace github.com/conveyor-etl/conveyor/cli => ../cli
