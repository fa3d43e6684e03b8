package redisstore

import (
	"fmt"
	"strconv"
	"time"

	"github.com/freshetdev/freshet/internal/redisx"
)

// parseURL reads the URL of a store. Options in it fill what o leaves open.
func parseURL(raw string, o Options) (redisx.Place, Options, error) {
	p, err := redisx.Parse(raw, o.TLS, func(k redisx.Kind, name, v string) error {
		switch {
		case name == "name":
			if o.Name == "" {
				o.Name = v
			}
		case name == "budget":
			d, err := time.ParseDuration(v)
			if err != nil || d <= 0 {
				return fmt.Errorf("option budget is %q; want a duration like 50ms", v)
			}
			if o.Budget == 0 {
				o.Budget = d
			}
		case name == "partitions" && k == redisx.Cluster:
			n, err := strconv.ParseUint(v, 10, 16)
			if err != nil || n == 0 || n > maxPartitions {
				return fmt.Errorf("option partitions is %q; want a number from 1 to %d", v, maxPartitions)
			}
			if o.Partitions == 0 {
				o.Partitions = int(n)
			}
		case name == "replicas":
			n, err := strconv.ParseUint(v, 10, 8)
			if err != nil {
				return fmt.Errorf("option replicas is %q; want a number up to 255", v)
			}
			if o.Replicas == 0 {
				o.Replicas = int(n)
			}
		default:
			return redisx.ErrUnknownOption
		}
		return nil
	})
	return p, o, err
}
