package adapters

import (
	"context"
	"encoding/json"

	"github.com/bytedance/sonic"
	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/bench/profile"
)

// rueidisJSON is a GET and a decode, as shipped: nothing merges callers, nothing is
// kept in process.
var rueidisJSON = Adapter{
	Name: "rueidis GET + encoding/json", Kind: Yardstick, Module: "github.com/redis/rueidis", Redis: true,
	New: func(cfg Config) (Cache, error) { return newRueidisGet(cfg, json.Marshal, json.Unmarshal) },
}

// rueidisSonic is the same with a faster decoder.
var rueidisSonic = Adapter{
	Name: "rueidis GET + sonic", Kind: Yardstick, Module: "github.com/bytedance/sonic", Redis: true,
	New: func(cfg Config) (Cache, error) {
		return newRueidisGet(cfg, sonic.ConfigStd.Marshal, sonic.ConfigStd.Unmarshal)
	},
}

type rueidisGet struct {
	cfg       Config
	client    rueidis.Client
	marshal   func(any) ([]byte, error)
	unmarshal func([]byte, any) error
}

func newRueidisGet(cfg Config, marshal func(any) ([]byte, error), unmarshal func([]byte, any) error) (Cache, error) {
	client, err := newRueidis(cfg)
	return &rueidisGet{cfg, client, marshal, unmarshal}, err
}

func (c *rueidisGet) Get(ctx context.Context, key string) (p profile.Profile, err error) {
	b, err := c.client.Do(ctx, c.client.B().Get().Key(key).Build()).AsBytes()
	if err == nil {
		err = c.unmarshal(b, &p)
		return p, err
	}
	if p, err = c.cfg.Load(ctx, key); err != nil {
		return p, err
	}
	if b, err = c.marshal(p); err == nil {
		_ = c.client.Do(ctx, c.client.B().Set().Key(key).Value(rueidis.BinaryString(b)).Px(c.cfg.TTL).Build()).Error()
	}
	return p, nil
}

func (c *rueidisGet) Del(ctx context.Context, key string) error {
	return c.client.Do(ctx, c.client.B().Del().Key(key).Build()).Error()
}

func (c *rueidisGet) Close() error {
	c.client.Close()
	return nil
}

func newRueidis(cfg Config) (rueidis.Client, error) {
	return rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{cfg.Addr}})
}
