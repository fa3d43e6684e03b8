package memstore

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/freshetdev/freshet/store"
)

// An item is what one key holds.
type item struct {
	key     string
	image   []byte    // never modified
	expires time.Time // zero: never
	side    *side     // of a plain placeholder or a refresh; goes with any change of the key
	readers readers   // who is to be told when it changes
	used    uint64    // data.uses when it was last looked at
	index   int       // in data.all
}

// A side lease stands beside what a key holds: beside the empty placeholder of a plain key, or
// beside the value that is being refreshed. Living in the item, it can't
// outlive what it was granted for:
//
//	A: Claim(k) plain -> placeholder, side A
//	   DEL k          -> both gone
//	B: Claim(k)       -> placeholder, side B
//	A: Fill(k)        -> refused, since side B is not A
type side struct {
	id      store.ID
	expires time.Time
}

// live reports whether a lease stands and is not over.
func (l *side) live(now time.Time) bool { return l != nil && now.Before(l.expires) }

// readers is a set of connections, one bit each. From the 65th on connections share
// bits, and are told of each other's keys, too.
type readers uint64

// itemOverhead is about what an item costs beside its key and image: the struct, its slots
// in the map and the slice. BenchmarkOverhead shows 140 bytes; the rest is for
// size classes and side leases.
const itemOverhead = 200

func itemSize(key string, image []byte) int64 {
	return int64(len(key)) + int64(len(image)) + itemOverhead
}

func (it *item) expired(now time.Time) bool {
	return !it.expires.IsZero() && !now.Before(it.expires)
}

// rest returns the time that the item has left, zero if it never expires.
func (it *item) rest(now time.Time) time.Duration {
	if it.expires.IsZero() {
		return 0
	}
	return it.expires.Sub(now)
}

// data is the entries of a server with what is known of their readers. It is guarded by Server.mu.
type data struct {
	items  map[string]*item
	all    []*item // the same, for sampling in constant time
	bytes  int64
	uses   uint64             // counts lookups: a clock for the least recently used
	absent map[string]readers // keys that were read and not there

	// changed is told who has read a key that changes, and by whom it was changed: nil
	// if by nobody who knows, as at an expiry found by another.
	changed func(key string, who readers, by *Store)
}

// get returns what key holds, nil if it is absent. An expiry that is found here is told to
// all readers but the one who asks, since that one sees it.
func (d *data) get(key string, now time.Time, by *Store) *item {
	it := d.items[key]
	if it == nil {
		return nil
	}
	if it.expired(now) {
		d.remove(it, by)
		return nil
	}
	d.uses++
	it.used = d.uses
	return it
}

// track remembers that c has read key; it is what get returned.
func (d *data) track(key string, it *item, c *Store, limit int) {
	if it != nil {
		it.readers |= c.bit
		return
	}
	d.absent[key] |= c.bit
	if len(d.absent) <= limit {
		return
	}
	for victim, who := range d.absent { // any one
		delete(d.absent, victim)
		d.changed(victim, who, nil)
		break
	}
}

// put stores image, which it keeps, at key. A TTL of zero means for ever. The one who
// puts has it tracked.
func (d *data) put(key string, image []byte, ttl time.Duration, now time.Time, by *Store, maxBytes int64) *item {
	it := d.items[key]
	if it == nil {
		it = &item{key: key, index: len(d.all), readers: d.absent[key]}
		delete(d.absent, key)
		d.items[key] = it
		d.all = append(d.all, it)
	} else {
		d.bytes -= itemSize(key, it.image)
	}
	d.changed(key, it.readers, by)
	it.image, it.side, it.readers, it.expires = image, nil, 0, time.Time{}
	if ttl > 0 {
		it.expires = now.Add(lifetime(ttl))
	}
	if by != nil {
		it.readers = by.bit
	}
	d.uses++
	it.used = d.uses
	d.bytes += itemSize(key, image)

	// Two looks a write find the dead faster than writes can leave them behind.
	for range 2 {
		if found := d.all[rand.IntN(len(d.all))]; found != it && found.expired(now) {
			d.remove(found, nil)
		}
	}
	for d.bytes > maxBytes && len(d.all) > 1 {
		d.evict(now, it)
	}
	return it
}

// remove deletes it and tells its readers but by.
func (d *data) remove(it *item, by *Store) {
	d.changed(it.key, it.readers, by)
	last := d.all[len(d.all)-1]
	d.all[it.index] = last
	last.index = it.index
	d.all[len(d.all)-1] = nil
	d.all = d.all[:len(d.all)-1]
	delete(d.items, it.key)
	d.bytes -= itemSize(it.key, it.image)
}

// del deletes key, and reports whether it was there.
func (d *data) del(key string, now time.Time, by *Store) bool {
	it := d.get(key, now, by)
	if it == nil {
		return false
	}
	d.remove(it, by)
	return true
}

// evictionSamples is Redis's default of maxmemory-samples: ten come closer to the true
// least recently used and cost twice as much.
const evictionSamples = 5

// evict removes the least recently used of a few samples, an expired one
// first. It never takes keep.
func (d *data) evict(now time.Time, keep *item) {
	var victim *item
	for range evictionSamples {
		it := d.all[rand.IntN(len(d.all))]
		if it == keep {
			it = d.all[(it.index+1)%len(d.all)]
		}
		if it == keep {
			return // it is alone
		}
		if it.expired(now) {
			victim = it
			break
		}
		if victim == nil || it.used < victim.used {
			victim = it
		}
	}
	d.remove(victim, nil)
}

// flush removes everything without telling.
func (d *data) flush() {
	d.items, d.absent = map[string]*item{}, map[string]readers{}
	d.all, d.bytes = nil, 0
}

var errTooBig = errors.New("image is larger than MaxBytes")
