#!/usr/bin/env bash
# Runs every fuzz target of every module, one after the other.
# Usage: scripts/fuzz.sh TIME      (as for -fuzztime: 30s, 5m, 1000x)
set -euo pipefail
cd "$(dirname "$0")/.."

found=0
# shellcheck disable=SC2016 # the dollars are the template's
tests='{{$dir := .Dir}}{{range .TestGoFiles}}{{$dir}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$dir}}/{{.}}{{"\n"}}{{end}}'
modules=$(go list -m -f '{{.Dir}}')
for dir in $modules; do
	cd "$dir"
	files=$(go list -f "$tests" ./...)
	# /dev/null lets grep find no file at all without waiting for input.
	targets=$(xargs grep -HoE '^func Fuzz[A-Za-z0-9_]*' /dev/null <<<"$files" || true)
	while IFS=: read -r file target; do
		[ -n "$target" ] || continue
		target=${target#func }
		found=$((found + 1))
		echo "fuzz: $target in $(dirname "$file") for $1"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "$(dirname "$file")"
	done <<<"$targets"
done
[ "$found" -gt 0 ] || { echo "fuzz: no fuzz target found" >&2; exit 1; }
