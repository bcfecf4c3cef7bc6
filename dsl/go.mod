module github.com/conveyor-etl/conveyor/dsl

go 1.26.0
