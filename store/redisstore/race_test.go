//go:build race

package redisstore

func init() { underRace = true }
