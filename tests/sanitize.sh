#!/usr/bin/env bash
# Runs tests with modules that report accesses outside of an array and undefined behaviour: AddressSanitizer and
# UndefinedBehaviorSanitizer, on Linux with g++. The first finding ends the run with its stack.
#   tests/sanitize.sh             every binding with wrong arguments, then tests/kernels and tests/layers on the CPU's engines
#   tests/sanitize.sh ARGUMENTS   the same with these arguments of pytest in the place of the two folders
# SANITIZED: a folder with a package brew that was built with BREW_SANITIZE=ON; otherwise one is built for this run, for the
# instruction set BREW_ISA or for all.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -z "${SANITIZED:-}" ]; then
  SANITIZED=$work/built
  python -m pip install --quiet --no-deps --target "$SANITIZED" -Ccmake.define.BREW_SANITIZE=ON -Ccmake.define.BREW_MODULES="${BREW_ISA:-base;avx2;avx512}" .
fi
export PYTHONPATH="$SANITIZED" ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=64 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
# The Python program is not built with them, so that their libraries must come first; libstdc++ for exceptions.
preload=$(for name in libasan.so libubsan.so libstdc++.so.6; do g++ -print-file-name="$name"; done | paste -sd: -)
LD_PRELOAD="$preload" python - <<'CHECK'
import brew.kernels
loaded = open("/proc/self/maps").read()
assert "libasan" in loaded and "libubsan" in loaded, "the sanitizers' libraries are not loaded"
assert b"__asan_" in open(brew.kernels.cpu.__file__, "rb").read(), f"{brew.kernels.cpu.__file__} was built without BREW_SANITIZE"
CHECK
(cd "$work" && LD_PRELOAD="$preload" python "$root/tests/kernels/replay.py")
[ $# -gt 0 ] || set -- tests/kernels tests/layers
# Reports are written to file descriptor 2, which pytest would capture and lose with the process.
LD_PRELOAD="$preload" python -m pytest -q --capture=sys --disable-warnings -k "not shim and not gpu and not nvrtc and not every_binding" "$@"
