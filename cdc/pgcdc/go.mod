module github.com/freshetdev/freshet/cdc/pgcdc

go 1.26.0

replace github.com/freshetdev/freshet => ../..

require (
	github.com/freshetdev/freshet v0.0.0-00010101000000-000000000000
	github.com/jackc/pglogrepl v0.0.0-20251213150135-2e8d0df862c1
	github.com/jackc/pgx/v5 v5.12.0
	go.uber.org/goleak v1.3.0
	pgregory.net/rapid v1.3.0
)
