# SPDX-License-Identifier: Apache-2.0
# What the README's commands call. Each target makes .venv if there is none, installs the pinned
# versions of constraints.txt, builds what changed, and runs.
#
#   make demo        reconstruct a synthetic scene, measure it, save pictures under runs/demo
#   make test        every test that needs no GPU          (PYTEST_ARGS="-k splat" to choose)
#   make test-asan   kernel tests under AddressSanitizer
#   make lint        ruff, pyright, clang-format           (make format to apply)
#   make bench       benchmarks against peers on this machine
#   make docs        the documentation, into site/
#   make cuda        compile every kernel with nvcc, warnings as errors, for sm_80 and sm_90
#   make build       only install and build;  make clean removes what was built, not .venv
#
# PYTHON=python3.12  which Python .venv is made with (3.11 or newer, for the pinned versions)
# TORCH_INDEX=URL    an extra package index, such as PyTorch's CPU one, to take torch from

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
TEST_WORKERS ?= 2
PYTEST_ARGS ?=

# `cuda` and `datasets` are other projects' names too: the repository root stays off sys.path.
export PYTHONSAFEPATH = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export NO_MKDOCS_2_WARNING = 1

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)
PARTS := cuda representations tracers datasets engine viewer fieldline
CORE := setup.py CMakeLists.txt $(wildcard $(PARTS:%=%/__init__.py)) \
        $(shell find cuda -name '*.cpp' -o -name '*.cu' -o -name '*.h')
FORMATTED = $(shell find cuda -name '*.cpp' -o -name '*.cu' -o -name '*.h')
ASAN := build/asan/library

.PHONY: demo test test-asan lint format bench docs cuda build clean

demo: $(VENV)/.built
	$(BIN)/fieldline demo --output runs/demo --overwrite

test: $(VENV)/.tools
	$(BIN)/python -m pytest --numprocesses $(TEST_WORKERS) --dist loadgroup $(PYTEST_ARGS)

# Python itself is not built with AddressSanitizer, so its runtime is loaded first and its leaks
# are not counted. The library's own names are protected so that torch's copy is never patched.
test-asan: $(VENV)/.tools
	FIELDLINE_ASAN=ON FIELDLINE_CUDA=OFF FIELDLINE_LIBRARY_DIR=$(ASAN) \
	    $(BIN)/python setup.py --quiet build_ext
	FIELDLINE_LIBRARY_DIR=$(ASAN) ASAN_OPTIONS=detect_leaks=0:abort_on_error=0 \
	    LD_PRELOAD="$$($${CXX:-g++} -print-file-name=libasan.so) $$($${CXX:-g++} -print-file-name=libstdc++.so)" \
	    $(BIN)/python -m pytest --numprocesses $(TEST_WORKERS) --dist loadgroup tests/cuda $(PYTEST_ARGS)

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/typecheck.py
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED)

format: $(VENV)/.tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED)

bench: $(VENV)/.tools
	for script in benchmarks/[!_]*.py; do $(BIN)/python $$script || exit 1; done

docs: $(VENV)/.docs
	$(BIN)/python -m mkdocs build --strict --quiet

cuda: export FIELDLINE_CUDA = ON
cuda: export FIELDLINE_WERROR = ON
cuda: export FIELDLINE_CUDA_SELFTEST = ON
cuda: export FIELDLINE_CUDA_ARCHITECTURES ?= 80;90
cuda: $(VENV)/.built
	$(BIN)/python setup.py --quiet build_ext --inplace
	$(BIN)/python .ci/check_cuda.py

build: $(VENV)/.built

clean:
	rm -rf build dist site *.egg-info cuda/*.so cuda/build.json $(VENV)/.built

# Each stamp is a file: a second call has nothing to do.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "make needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	    { rm -rf $(VENV); echo "no venv module: apt install python3-venv" >&2; exit 1; }
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) setuptools cmake ninja
	@touch $@

$(VENV)/.built: $(VENV)/.torch pyproject.toml $(CORE)
	@command -v $${CXX:-g++} >/dev/null || \
	    { echo "no C++ compiler: apt install g++" >&2; exit 1; }
	$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.tools: $(VENV)/.built
	$(PIP) 'fieldline[dev,data,video,match,vdb,lidar]'
	@touch $@

$(VENV)/.docs: $(VENV)/.built
	$(PIP) 'fieldline[docs]'
	@touch $@
