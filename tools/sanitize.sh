#!/usr/bin/env bash
# Native kernels and everything that reads files, under AddressSanitizer and UndefinedBehaviorSanitizer.
# Builds into build/sanitize; uses the packages of $PYTHON (default .venv/bin/python). Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
python=$(readlink -f "$(dirname "${PYTHON:-.venv/bin/python}")")/$(basename "${PYTHON:-.venv/bin/python}")
site=build/sanitize/site
mkdir -p "$site"
rm -rf "$site/compand"
"$python" -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps --target "$site" --upgrade \
    -C cmake.define.COMPAND_SANITIZE=ON -C cmake.build-type=RelWithDebInfo -C install.strip=false -C build-dir=build/sanitize/cmake .
# a bare interpreter with the same packages: the hook of an editable install would bring the ordinary build back
packages=$("$python" -c "import sys; print(':'.join(p for p in sys.path if 'site-packages' in p))")
"$python" -m venv --without-pip build/sanitize/venv
python=build/sanitize/venv/bin/python
export PYTHONPATH="$PWD/$site:$packages" PYTHONMALLOC=malloc
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so) $(gcc -print-file-name=libstdc++.so)"
"$python" -c "import compand, sys; p = compand.__file__; sys.exit(0 if 'build/sanitize' in p else f'not the sanitized build: {p}')"
for isa in ${ISAS:-scalar avx2 avx512}; do
    echo "== $isa"
    COMPAND_ISA=$isa "$python" -m pytest -q -p no:cacheprovider ${@:-tests/native tests/test_symbols.py tests/test_file.py tests/test_file_mutants.py tests/test_file_hostile.py}
done
