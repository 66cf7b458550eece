# Two commands on a fresh machine: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
NATIVE := $(shell find native CMakeLists.txt -type f 2>/dev/null)

.PHONY: demo test lint bench sanitize fuzz clean
all: demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --upgrade pip

.stamp-install: $(BIN)/python pyproject.toml $(NATIVE)
	@echo "Installing what the build needs, then compiling the native code: once, and some minutes long."
	$(BIN)/python -m pip install -q --disable-pip-version-check "scikit-build-core>=0.11,<2" "nanobind>=2.7,<4" "numpy>=2,<3" ninja cmake
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[cli,fit]"
	@touch $@

.stamp-dev: .stamp-install
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[cli,fit,arrow,dev]"
	@echo "Installing PyTorch, which some tests compare with: some GB on Linux. make test TORCH= skips these tests."
	test -z "$(TORCH)" || $(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH) || echo "torch not installed: its tests are skipped"
	@touch $@

demo: .stamp-install  ## compress, decompress and verify the real data that ships with the package
	$(BIN)/compand demo

test: .stamp-dev  ## every test, every example of the docs
	$(BIN)/python -m pytest -n 2

lint: .stamp-dev
	$(BIN)/ruff check src tests benchmarks tools fuzz

bench: .stamp-dev  ## measure against the peers; writes benchmarks/results/*.json
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[bench]"
	for f in entropy nearest lossless load vectors ivf scale trellis matmul layers qat render; do $(BIN)/python benchmarks/$$f.py || exit 1; done

sanitize:  ## native code and file tests under ASan and UBSan
	tools/sanitize.sh

fuzz: .stamp-dev  ## coverage-guided fuzzing of everything that reads bytes
	$(BIN)/python -m pip install -q --disable-pip-version-check atheris
	$(BIN)/python fuzz/fuzz_file.py -max_total_time=$(or $(SECONDS_EACH),60)
	for kind in ply compressed spz spz4 sog splat ksplat cpd streams; do \
	  $(BIN)/python fuzz/fuzz_splats.py $$kind -max_total_time=$(or $(SECONDS_EACH),60) || exit 1; done

clean:
	rm -rf build dist .venv .stamp-* *.egg-info demo-report.html demo-out
