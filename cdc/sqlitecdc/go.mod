module github.com/freshetdev/freshet/cdc/sqlitecdc

go 1.26.0

replace github.com/freshetdev/freshet => ../..

require (
	github.com/freshetdev/freshet v0.0.0-00010101000000-000000000000
	github.com/ncruces/go-sqlite3 v0.35.0
	go.uber.org/goleak v1.3.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/go-json-experiment/json v1.27.2 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/maypok86/otter/v2 v2.4.0 // indirect
	github.com/ncruces/go-sqlite3-wasm/v3 v3.1.35302 // indirect
	github.com/ncruces/julianday v1.0.0 // indirect
	github.com/redis/rueidis v1.0.79 // indirect
	golang.org/x/sys v0.47.0 // indirect
)
