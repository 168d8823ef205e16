#!/usr/bin/env bash
# Runs docker-compose.yml in the foreground, until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."

MEMCACHED_IMAGE=$(scripts/memcached-image.sh)
export MEMCACHED_IMAGE
compose=(docker compose)
docker compose version >/dev/null 2>&1 || compose=(docker-compose)

echo "CACHEKIT_URL=memcached://127.0.0.1:21211,127.0.0.1:21212,127.0.0.1:21213"
echo "(the gutter is 127.0.0.1:21214; Ctrl-C ends all four)"
trap '"${compose[@]}" down' EXIT
"${compose[@]}" up
