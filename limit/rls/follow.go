package rls

import (
	"context"
	"fmt"
	"reflect"
	"time"
)

// Follow reads the Config from paths every so often, as [ReadConfig] does, and sets it when it changed, until ctx ends. A Config that is wrong leaves
// the old one in force. told hears of each Config set, with nil, and of each error, once until it is another one or gone; it may be nil.
//
// Files that are replaced one by one can be seen half old and half new for a turn; files in a folder that is replaced as a whole (a ConfigMap
// of Kubernetes) as well.
func (s *Server) Follow(ctx context.Context, every time.Duration, told func(error), paths ...string) error {
	if every <= 0 {
		return fmt.Errorf("rls: Follow every %v; want more than zero", every)
	}
	if told == nil {
		told = func(error) {}
	}
	var now *Config
	var complaint string
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		c, err := ReadConfig(paths...)
		changed := err == nil && !reflect.DeepEqual(now, c)
		if changed {
			err = s.SetConfig(c)
		}
		switch {
		case err == nil:
			now, complaint = c, ""
			if changed {
				told(nil)
			}
		case err.Error() != complaint:
			complaint = err.Error()
			told(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
