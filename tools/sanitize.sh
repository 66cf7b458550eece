#!/usr/bin/env bash
# Native kernels and everything that reads files, under AddressSanitizer and UndefinedBehaviorSanitizer.
#     tools/sanitize.sh                          build into build/sanitize, then all parts on all instruction sets
#     SANITIZE=build tools/sanitize.sh           only build;  SANITIZE=test: use the build that is there
#     ISAS=avx2 PARTS="coders files" tools/sanitize.sh
#     tools/sanitize.sh tests/native -k trellis  these tests instead of the parts
# Uses the packages of $PYTHON (default .venv/bin/python).
set -eu
cd "$(dirname "$0")/.."
python=$(readlink -f "$(dirname "${PYTHON:-.venv/bin/python}")")/$(basename "${PYTHON:-.venv/bin/python}")
site=build/sanitize/site
if [ "${SANITIZE:-all}" != test ]; then
    mkdir -p "$site"
    rm -rf "$site/compand"
    "$python" -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps --target "$site" --upgrade \
        -C cmake.define.COMPAND_SANITIZE=ON -C cmake.build-type=RelWithDebInfo -C install.strip=false -C build-dir=build/sanitize/cmake .
    [ "${SANITIZE:-all}" = build ] && exit
fi
# a bare interpreter with the same packages: the hook of an editable install would bring the ordinary build back
packages=$("$python" -c "import sys; print(':'.join(p for p in sys.path if 'site-packages' in p))")
"$python" -m venv --without-pip build/sanitize/venv
python=build/sanitize/venv/bin/python
export PYTHONPATH="$PWD/$site:$packages" PYTHONMALLOC=malloc
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so) $(gcc -print-file-name=libstdc++.so)"
"$python" -c "import compand, sys; p = compand.__file__; sys.exit(0 if 'build/sanitize' in p else f'not the sanitized build: {p}')"
declare -A tests=(
    [kernels]="tests/native tests/test_symbols.py"
    [coders]="tests/entropy/test_coder.py tests/entropy/test_models.py tests/quantizer/test_planes.py"
    [stages]="tests/quantizer/test_trellis.py tests/quantizer/test_splat.py tests/quantizer/test_image_stage.py tests/quantizer/test_tokens.py tests/quantizer/test_vq.py tests/fit/test_kmeans.py tests/transform/test_hadamard.py"
    [ops]="tests/op/test_matmul.py tests/op/test_integer.py tests/quantizer/test_ranks.py tests/op/test_search.py tests/op/test_signs.py tests/op/test_lists.py tests/op/test_render.py"
    [files]="tests/test_file.py tests/test_golden.py"
    [hostile]="tests/test_file_hostile.py --deselect tests/test_file_hostile.py::test_tiny_arrays_cost_no_more_than_their_bytes"
    [mutants]="tests/test_file_mutants.py"
)
run() {
    echo "== $1: ${*:2}"
    COMPAND_ISA=$1 "$python" -m pytest -q -p no:cacheprovider "${@:2}"
}
for isa in ${ISAS:-scalar avx2 avx512}; do
    if [ $# -gt 0 ]; then
        run "$isa" "$@"
        continue
    fi
    for part in ${PARTS:-kernels coders stages ops files hostile mutants}; do
        # shellcheck disable=SC2086
        run "$isa" ${tests[$part]}
    done
done
