#!/usr/bin/env bash
# Checks the format and runs the linters over every module of go.work.
#
# golangci-lint is built from source into ./bin once per version (a minute or two). It
# isn't a "tool" line of a go.mod: that would put its 200 modules into ours, and its
# makers advise against it.
set -euo pipefail
cd "$(dirname "$0")/.."

version=v2.15.0
tools="$PWD/bin/golangci-lint-$version"

failed=0

unformatted=$(find . \( -name .git -o -name node_modules -o -name bin -o -name testdata \) -prune -o -name '*.go' -print0 |
	xargs -0 gofmt -l)
if [ -n "$unformatted" ]; then
	echo "lint: not formatted; run gofmt -w on:" >&2
	echo "$unformatted" >&2
	failed=1
fi

go vet work || failed=1

if [ ! -x "$tools/golangci-lint" ]; then
	echo "lint: building golangci-lint $version into ${tools#"$PWD"/}"
	GOBIN=$tools go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version"
fi
modules=$(go list -m -f '{{.Dir}}')
for dir in $modules; do
	(cd "$dir" && "$tools/golangci-lint" run --allow-serial-runners ./...) || failed=1
done

[ $failed -eq 0 ] || { echo "lint: FAILED" >&2; exit 1; }
echo "lint: ok"
