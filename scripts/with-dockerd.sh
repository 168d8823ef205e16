#!/usr/bin/env bash
# Runs a command with a Docker engine at hand: the one that runs already, or one that lives only as long as the command.
set -euo pipefail

if docker info >/dev/null 2>&1; then
    exec "$@"
fi
if [ "$(id -u)" != 0 ] || ! command -v dockerd >/dev/null; then
    echo "No Docker engine answers. Please start it, then try again:" >&2
    echo "  sudo systemctl start docker    (you must be in the group docker; on a Mac: colima start)" >&2
    exit 1
fi

log=$(mktemp)
setsid dockerd >"$log" 2>&1 & # a session of its own, so that Ctrl-C reaches the command first
dockerd=$!
stop() {
    kill "$dockerd" 2>/dev/null || true
    wait "$dockerd" 2>/dev/null || true
    rm -f "$log"
}
trap stop EXIT

for _ in $(seq 300); do
    docker info >/dev/null 2>&1 && break
    kill -0 "$dockerd" 2>/dev/null || break
    sleep 0.1
done
if ! docker info >/dev/null 2>&1; then
    echo "dockerd did not start:" >&2
    tail -n 20 "$log" >&2
    exit 1
fi

"$@"
