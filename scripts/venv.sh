#!/usr/bin/env bash
# Makes .venv if there is none, and installs the project into it, editable: scripts/venv.sh '.[extra]' --group dev
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "cachekit needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11 …" >&2
    exit 1
fi

if ! [ -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "making .venv …"
    # Debian keeps ensurepip in another package (python3-venv); without it, pip fills the environment from outside.
    if ! "$python" -m venv --clear .venv >/dev/null 2>&1; then
        "$python" -m venv --clear --without-pip .venv
        "$python" -m pip --python .venv/bin/python install -qq pip
    fi
fi

echo "installing into .venv …"
.venv/bin/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1' # the first that knows --group
.venv/bin/python -m pip install -qq --disable-pip-version-check --editable "$@"
