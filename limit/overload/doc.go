// Package overload keeps an origin from falling over: it limits how many requests are in flight to it at a time, finds the limit by
// itself, and sheds what is beyond it, the least important first.
//
//	l, err := overload.New(overload.Options{})
//	...
//	client := &http.Client{Transport: l.Transport(nil, priorityOf)}
//
// A rate limit protects against a client who asks too much; this protects an origin that can do less than it is asked for, whoever asks, and
// whatever it can do today. An origin in overload does not just answer late: clients leave, it works for nobody, and nothing of what it
// does is of use. With a limit it answers as many as it can, and the others know at once.
//
// # The limit
//
// The limit follows latency: it grows while requests take as long as they do without a queue in the origin, goes down when they take more than Tolerance
// times as long, or are dropped, and is halved for a moment when that is needed to see what latency is without a queue. It is the rule of Gradient2
// (Netflix concurrency-limits), with DCTCP's answer to drops (RFC 8257), and with probes as in BBR and Envoy's
// adaptive_concurrency in place of a long average, which learns an overload that lasts. See gradient.go.
//
// # Priorities
//
// A request for which there is no place waits: at most MaxQueued of them, at most MaxWait. A place that comes free goes to the highest priority that
// waits, to the oldest of it. A request that finds the queue full takes the place of the youngest of the lowest priority that waits, if
// that is lower than its own; else it is shed.
//
// # What is promised
//
//   - No request is admitted while as many as the limit, or more, are in flight. When the limit goes down, those in flight stay.
//   - A request is shed only if it finds the queue full of its own or higher priorities, is displaced by a higher one, or
//     has waited for MaxWait. No lower priority is admitted while it waits.
//   - A place is given back once, however often release is called, and none is lost when a caller gives up.
//   - The limit doesn't grow beyond twice what was in flight (and a square root), so a quiet night doesn't make it any number.
//   - Acquire returns by the end of its ctx, and after MaxWait.
//
// # What is not
//
//   - Lower priorities can starve: as long as higher ones take every place, none of them is admitted. Nor is any place kept free for
//     higher ones: with all places taken by slow background work, Critical waits for the first that ends.
//   - Each process has a limit of its own. Several in front of one origin don't know of each other; how they share it isn't promised.
//   - The limit is a guess from noisy latencies. In simulations (sim_test.go: load of 1.1 to 10 times the capacity, steps, outages) origins answered
//     80 to 98 % of what they could, where without a limit they answered next to nothing. After a step it takes some seconds.
//   - It takes some number of requests to move (Samples), so with few requests it moves slowly.
//   - An overload that comes so slowly that latency takes more than a minute to double is seen only once the limit is reached.
//   - An origin goes on with what its client left, or what timed out: that is no longer counted as in flight.
package overload
