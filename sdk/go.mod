module github.com/conveyor-etl/conveyor/sdk

go 1.26.0

require github.com/conveyor-etl/conveyor/protos v0.1.0

replace github.com/conveyor-etl/conveyor/protos => ../protos
