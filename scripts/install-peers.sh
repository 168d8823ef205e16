#!/usr/bin/env bash
# Installs the benchmarks' peers one by one; one that does not install here is named and left out.
set -euo pipefail
cd "$(dirname "$0")/.."

grep -v '^\s*\(#\|$\)' "$1" | while read -r requirement; do
    .venv/bin/python -m pip install -qq --disable-pip-version-check "$requirement" </dev/null >/dev/null 2>&1 ||
        echo "skipped, does not install here: $requirement"
done
