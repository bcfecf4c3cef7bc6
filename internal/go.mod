module github.com/conveyor-etl/conveyor/internal

go 1.26.0
