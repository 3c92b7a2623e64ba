#!/bin/sh
# Starts @PROGRAM@ of this bundle. The first start on a node unpacks the programs into the user's cache.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
archive=$here/@ARCHIVE@
cache=${XDG_CACHE_HOME:-${HOME:?neither XDG_CACHE_HOME nor HOME is set}/.cache}/lyceum
programs=$cache/bundle-@HASH@
if [ ! -d "$programs" ]; then
    mkdir -p "$cache"
    partial=$(mktemp -d "$cache/bundle-@HASH@.XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    trap 'exit 1' HUP INT TERM
    "${LYCEUM_PYTHON:-python3}" - "$archive" "$partial" <<'PYTHON' || { echo "lyceum: cannot unpack $archive" >&2; exit 1; }
import hashlib, sys, tarfile
archive, folder = sys.argv[1:]
with open(archive, "rb") as file:
    found = hashlib.sha256(file.read()).hexdigest()
if not found.startswith("@HASH@"):
    sys.exit(f"{archive} is damaged: its hash is {found}, not @HASH@...")
with tarfile.open(archive, "r:xz") as programs:
    programs.extractall(folder)
PYTHON
    # Whoever comes first wins; the others have unpacked the same.
    mv -T "$partial" "$programs" 2>/dev/null || [ -d "$programs" ]
    rm -rf "$partial"
    trap - EXIT HUP INT TERM
fi
export LYCEUM_HOME="$here"
exec "$programs/@PROGRAM@" "$@"
