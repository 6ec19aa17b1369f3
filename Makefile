# make demo    set up, then the main job on drawn snapshots, ending in a report
# make test    set up, then every test, in 3 processes: they wait a lot (make test WORKERS=1 takes the least memory)
# make check   lint, types and tests: what CI runs
# make floors  a small run with the lowest versions that pyproject.toml allows
# make bench   scoring against the limit and Ray's recipe (about 20 minutes)
# make bench-gpu   scoring on one GPU: its parts alone, both decoders, Ray's recipe (six minutes; without a GPU, a stand-in)
# make bench-store   scoring from S3, readers side by side, planning 10,000,000 keys (about 30 minutes)
# make torture   what it promises, tried until it breaks: kills, mutations, bombs (about half an hour)
# make env     build .venv alone

PYTHON ?= $(shell command -v python3.11 || command -v python3)
WORKERS ?= 3
BIN := .venv/bin
STAMP := .venv/.installed
FLOORS := .venv-floors

.PHONY: env demo test lint check floors bench bench-gpu bench-store torture clean

env: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@echo "env: building .venv with $(PYTHON) (about 7 GB; two minutes on a fast line)"
	@$(PYTHON) -c 'import sys; sys.exit("maskbatch needs Python 3.11 or later; give make PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@
	@echo "env: ready"

demo: env
	@echo "demo: drawing a month of snapshots, scoring it on an embedded Ray"
	@$(BIN)/maskbatch demo

test: env
	@echo "test: every test, on the CPU and an embedded Ray"
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: env
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache

check: lint test

floors: env
	@echo "floors: the lowest direct versions in $(FLOORS) (about 7 GB)"
	@$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(FLOORS)
	@$(BIN)/uv pip install --quiet --python $(FLOORS)/bin/python --resolution lowest-direct --editable .
	@$(FLOORS)/bin/python -m tests.floors

bench: env
	@$(BIN)/python -m tests.benchmarks.score

bench-gpu: env
	@$(BIN)/python -m tests.benchmarks.gpu

bench-store: env
	@$(BIN)/python -m tests.benchmarks.store
	@$(BIN)/python -m tests.benchmarks.plan

torture: env
	@$(BIN)/python -m tests.torture

clean:
	rm -rf .venv $(FLOORS) maskbatch-demo
