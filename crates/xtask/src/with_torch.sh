#!/bin/sh
# Starts @PROGRAM@ with the torch of this node's own Python (LYCEUM_PYTHON names another interpreter).
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
python=${LYCEUM_PYTHON:-python3}
# Importing torch takes seconds; finding it does not.
found=$("$python" - <<'PYTHON'
import glob, importlib.metadata, importlib.util, os, sys
spec = importlib.util.find_spec("torch")
if spec is None or not spec.submodule_search_locations:
    sys.exit("torch is not installed")
torch = spec.submodule_search_locations[0]
version = importlib.metadata.version("torch")
# CUDA libraries of the wheels lie beside torch; libtorch's own run path finds them, a plain dlopen does not.
beside = sorted(glob.glob(os.path.join(os.path.dirname(torch), "nvidia", "*", "lib")))
print(version)
print(":".join([os.path.join(torch, "lib"), *beside]))
PYTHON
) || { echo "lyceum: $python has no torch: install torch 2.11.0, or let LYCEUM_PYTHON name a Python that has it" >&2; exit 1; }
version=$(printf '%s\n' "$found" | sed -n 1p)
libraries=$(printf '%s\n' "$found" | sed -n 2p)
case $version in
    2.11.0 | 2.11.0+*) ;;
    *) echo "lyceum: $python has torch $version; torch 2.11.0 is needed" >&2; exit 1 ;;
esac
export LYCEUM_TORCH_LIB="${libraries%%:*}"
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$here/@PROGRAM@" "$@"
