module github.com/conveyor-etl/conveyor/connectors

go 1.26.0

require (
	github.com/conveyor-etl/conveyor/protos v0.1.0
	github.com/conveyor-etl/conveyor/sdk v0.1.0
	github.com/google/go-cmp v0.7.0
	go.uber.org/goleak v1.3.0
	google.golang.org/grpc v1.85.0
	pgregory.net/rapid v1.3.0
)

require (
	github.com/planetscale/vtprotobuf v0.6.1-0.20240319094008-0393e58bdf10 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/conveyor-etl/conveyor/protos => ../protos

replace github.com/conveyor-etl/conveyor/sdk => ../sdk
