module github.com/conveyor-etl/conveyor/dlq

go 1.26.0
