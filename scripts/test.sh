#!/usr/bin/env bash
# Runs the tests of every module of go.work under the race detector.
# Usage: scripts/test.sh TIMEOUT [GO-TEST-FLAG...]
set -euo pipefail
cd "$(dirname "$0")/.."

timeout=$1
shift
# Vet is part of "make lint"; running its subset again would only cost time.
# What takes longest comes first, so that none of it is left to run alone at the end.
# Many tests wait for servers more than they compute, so one package more than there are processors runs at a time.
go test -race -vet=off -p $(($(nproc) + 1)) -timeout "$timeout" "$@" . ./cdc/mysqlcdc ./cdc/pgcdc ./store/redisstore ./internal/torture work

# What promises no more than so many allocations is counted without the race detector, which allocates by itself.
go test -vet=off -timeout "$timeout" -run Alloc "$@" . ./store/redisstore ./codec ./store

# Large transactions go through SQLite, which is Go code here: the race detector makes it thirty times slower, so with it they are small.
# (-trimpath: as TestReadme has built it already.)
exec go test -vet=off -trimpath -timeout "$timeout" -run Large "$@" ./cdc/sqlitecdc
