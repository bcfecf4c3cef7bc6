module github.com/conveyor-etl/conveyor/buffer

go 1.26.0
