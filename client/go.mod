module github.com/conveyor-etl/conveyor/client

go 1.26.0

require (
	github.com/conveyor-etl/conveyor/dsl v0.1.0
	github.com/conveyor-etl/conveyor/protos v0.1.0
)

replace github.com/conveyor-etl/conveyor/protos => ../protos

replace github.com/conveyor-etl/conveyor/dsl => ../dsl
