// Command floor measures the six-hop chain with nothing in it but the hops: the least that moving a record can cost here.
//
// Six processes of this binary stand for a source service, its sidecar, a sidecar with a transform service, that
// service, and a sidecar with a sink service. Unix sockets join what shares a pod, TCP joins the sidecars:
//
//	source -unix-> sidecar -tcp-> sidecar -tcp-> sidecar -unix-> sink
//	                              | unix |
//	                              transform
//
// Batches of records flow to the sink and cumulative acknowledgements flow back to the source, inside a window. There is
// no routing, retry, metric or security: what the product costs beside this is the price of those. The codec and the
// gRPC settings are the best that were found, so a floor is not beaten by tuning; they are written out here and share
// no code with the product, so that a change of the product never moves its own floor.
//
// It prints one line of JSON. Compare it only with runs of the same minutes, alternating: a shared machine drifts.
package main
