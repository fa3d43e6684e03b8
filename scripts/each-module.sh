#!/usr/bin/env bash
# Runs a command in the folder of every module of go.work.
# Usage: scripts/each-module.sh COMMAND [ARG...]
set -euo pipefail
cd "$(dirname "$0")/.."

modules=$(go list -m -f '{{.Dir}}')
for dir in $modules; do
	echo "$dir: $*"
	(cd "$dir" && "$@")
done
