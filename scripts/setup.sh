#!/usr/bin/env bash
# Installs what the tests need and isn't there yet. Running it again does nothing.
#
#   redis-server   tests start servers of their own, on their own ports
#   postgresql     likewise
#   mariadb        likewise
#   node and npm   for examples/node-*: another language on the same keys
#   a C compiler   the race detector links with it
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# as_root runs a command as root. It never waits for a password.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif have sudo && sudo -n true 2>/dev/null; then
		sudo -n "$@"
	elif have sudo && [ -t 0 ]; then
		sudo "$@"
	else
		say "need root for: $*; run it yourself, then again: make setup" >&2
		exit 1
	fi
}

# install takes the packages' names for apt, for dnf, for apk, for pacman and for brew.
install() {
	if have apt-get; then
		say "installing with apt-get: $1"
		# An old or empty list of packages is the usual reason for a failure.
		# shellcheck disable=SC2086 # several packages in one word
		as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $1 </dev/null ||
			{ as_root apt-get update -q </dev/null &&
				as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $1 </dev/null; }
	elif have dnf; then
		say "installing with dnf: $2"
		# shellcheck disable=SC2086
		as_root dnf install -y -q $2 </dev/null
	elif have apk; then
		say "installing with apk: $3"
		# shellcheck disable=SC2086
		as_root apk add --quiet $3 </dev/null
	elif have pacman; then
		say "installing with pacman: $4"
		# shellcheck disable=SC2086
		as_root pacman -S --noconfirm --needed $4 </dev/null
	elif have brew; then
		say "installing with brew: $5"
		# shellcheck disable=SC2086
		brew install --quiet $5 </dev/null
	else
		say "no package manager that I know; install one of these yourself: $1 / $2" >&2
		exit 1
	fi
}

# stop_service ends the service that a package may have started by itself. The tests don't need
# it, and nobody asked for a server on the standard port.
stop_service() {
	if have systemctl && systemctl is-system-running >/dev/null 2>&1; then
		as_root systemctl disable --now --quiet "$1" 2>/dev/null || true
	elif have service; then
		as_root service "$1" stop >/dev/null 2>&1 || true
	fi
}

have go || { say "go is missing; install Go 1.26 or later from go.dev/doc/install" >&2; exit 1; }

if ! have redis-server; then
	install redis-server redis redis valkey redis
	stop_service redis-server
	have redis-server || { say "redis-server is still missing" >&2; exit 1; }
fi
# Debian keeps initdb out of the path; the tests look in the same places (internal/testenv/postgres.go).
have_postgres() {
	local dir
	for dir in "${FRESHET_TEST_POSTGRES_BIN:-}" "$(pg_config --bindir 2>/dev/null)" "$(dirname "$(command -v initdb || echo /nowhere/initdb)")" \
		/usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql* /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin; do
		if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && [ -x "$dir/psql" ]; then
			return 0
		fi
	done
	return 1
}

if ! have_postgres; then
	install postgresql postgresql-server "postgresql postgresql-client" postgresql postgresql@17
	stop_service postgresql
	have_postgres || { say "postgresql is still missing" >&2; exit 1; }
fi
if ! { have mariadbd || [ -x /usr/sbin/mariadbd ] || [ -x /usr/libexec/mariadbd ]; } || ! have mariadb-install-db; then
	install "mariadb-server mariadb-client" "mariadb-server mariadb" "mariadb mariadb-client" mariadb mariadb
	stop_service mariadb
	have mariadb-install-db || { say "mariadb is still missing" >&2; exit 1; }
fi
if ! have cc && ! have gcc && ! have clang; then
	install "gcc libc6-dev" gcc "gcc musl-dev" gcc gcc
fi
if ! have node || ! have npm; then
	install "nodejs npm" "nodejs npm" "nodejs npm" "nodejs npm" node
fi

for lock in examples/*/package-lock.json; do
	[ -e "$lock" ] || continue
	dir=$(dirname "$lock")
	# npm writes this file last, so it is newer than the lock file it was made from.
	if [ "$dir/node_modules/.package-lock.json" -nt "$lock" ]; then
		continue
	fi
	say "npm ci in $dir"
	(cd "$dir" && npm ci --no-audit --no-fund --loglevel=error </dev/null)
	touch "$dir/node_modules/.package-lock.json"
done
