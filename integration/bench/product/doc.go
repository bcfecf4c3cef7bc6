// Command product measures Conveyor's own six-hop chain: the same work as the floor, done by the programs that users run.
//
// A source, a transform and a sink written with the SDK run as processes of this binary, each beside a conveyor-sidecar of its own, under
// one conveyor-router; the pipeline is applied as users apply it. Routing, credit, acknowledgements by record, retries, checkpoints and
// metrics are all in it. It prints one line of JSON, as the floor does.
package main
