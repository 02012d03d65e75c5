#!/bin/sh
# Browser tests need a Chromium: the machine's, else Debian's where we may install it, else Playwright's.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
else
    "$root/.venv/bin/playwright" install chromium
fi
