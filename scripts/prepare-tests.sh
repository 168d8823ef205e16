#!/usr/bin/env bash
# Makes sure that everything the tests run against is installed. As root on Debian or Ubuntu it installs what is missing;
# elsewhere it prints the command that a person must run, and fails.
set -euo pipefail

have() { command -v "$1" >/dev/null 2>&1; }
engine_runs() { have docker && docker info >/dev/null 2>&1; }

missing=()
have memcached || missing+=(memcached)
engine_runs || { have docker && have dockerd; } || missing+=(docker.io)
engine_runs || have iptables || missing+=(iptables)
docker compose version >/dev/null 2>&1 || have docker-compose || missing+=(docker-compose)
have openssl || missing+=(openssl)
have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
[ -e /usr/share/dict/words ] || missing+=(wamerican) # examples/words.py

[ ${#missing[@]} -gt 0 ] || exit 0

if ! have apt-get; then
    echo "The tests need, and here is no apt-get to install them with: ${missing[*]}" >&2
    echo "On a Mac: brew install memcached postgresql colima docker docker-compose && colima start" >&2
    echo "Elsewhere: install them with your package manager, and start the Docker engine." >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "The tests need some Debian packages. Please run, then try again:" >&2
    echo "  sudo apt-get update && sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

echo "installing ${missing[*]} …"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# RUNLEVEL=1 tells Debian's init scripts not to start the services: the tests start their own servers.
install() { RUNLEVEL=1 apt-get install -y --no-install-recommends "$@"; }
# From Debian 13 on the docker command is a package of its own.
if ! { apt-get update && install "${missing[@]}" && { have docker || install docker-cli; }; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    exit 1
fi
