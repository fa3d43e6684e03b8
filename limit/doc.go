// Package limit decides whether a request may go on: so many per second, in any window, per month, or at a time.
//
//	perUser := limit.MustPolicy("per-user", limit.Spec{Limit: 100, Period: time.Minute, Burst: 20})
//	l, err := limit.New(memlimit.New(memlimit.Options{}), limit.Options{})
//	...
//	if !l.Allow(ctx, perUser, "ada") { ... }
//
// A [Policy] says what is allowed, a [Request] asks for units of it for a key, and a [Decision] answers several requests at once, all or nothing. What was
// used is kept by a [Store]: memlimit in this process, redislimit in Redis or Valkey for all instances. A store keeps
// and counts, as [Rule] says; everything else is done by the [Limiter], the same for all stores.
//
// # What is promised
//
//   - What each [Kind] admits at worst in any window, in numbers. Any number of concurrent requests, from any number of instances, share it exactly.
//   - Refused requests cost nothing, unless a policy has a [Penalty].
//   - Time is the store's: clocks of instances may be wrong by any amount (Fixed: by up to a window).
//   - All times are in whole microseconds. What is rounded is rounded so that less is admitted.
//   - A decision is never tried twice, so it is never charged twice.
//   - A decision returns after Options.Timeout, whatever the store does, and then follows the policy's OnOutage.
//
// # What is not
//
//   - A store that loses state (a failover of Redis, eviction) forgets what was used.
//   - A decision whose time ran out may have been charged, though it was answered by OnOutage. A lease that it may have made is ended, if the store can
//     be asked soon after it, or lasts for its TTL.
//   - Requests whose keys don't share a slot of the store aren't decided as one: see [Limiter.Decide].
package limit
