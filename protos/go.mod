module github.com/conveyor-etl/conveyor/protos

go 1.26.0
