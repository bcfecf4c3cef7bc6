// Package sdk serves a source, a transform or a sink to Conveyor in a few lines.
//
// A service is a program with one or more abilities behind one port:
//
//	func main() {
//		sdk.Main(sdk.Sink("webhook", func(ctx context.Context, cfg Config, batch []sdk.Record) error {
//			return post(ctx, cfg, batch)
//		}))
//	}
//
// Abilities are made by [Source], [OpenSource], [Transform], [TransformBatch], [Map], [Filter], [OpenTransform], [Sink], [SinkEach] and
// [OpenSink]; [Main] runs them as a program, [NewServer] inside another one. The config of an ability is a struct: its fields tell the
// JSON Schema, the defaults and what is checked before the handler sees it.
//
// A stage has one owner at a time, a sidecar, and the server holds its services to that: a source and a sink refuse an owner once a newer
// one has opened them, and end what it had open. Handlers need to know nothing of it but that their context may end.
//
// The memory of a record that a handler is given is valid until the handler returns; [Record.Clone] keeps one longer.
package sdk
