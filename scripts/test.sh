#!/usr/bin/env bash
# Runs the tests of every module of go.work under the race detector.
# Usage: scripts/test.sh TIMEOUT [GO-TEST-FLAG...]
set -euo pipefail
cd "$(dirname "$0")/.."

timeout=$1
shift
# Vet is part of "make lint"; running its subset again would only cost time.
go test -race -vet=off -timeout "$timeout" "$@" work

# What promises no more than so many allocations is counted without the race detector, which allocates by itself.
exec go test -vet=off -timeout "$timeout" -run Alloc "$@" . ./store/redisstore ./codec ./store
