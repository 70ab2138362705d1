# Everything there is to do in a checkout, by name; `make` alone lists it. Needs Python 3.11 or later, make and a C compiler.
#   make PYTHON=/path/to/python3.12 demo     another interpreter          make VENV=/path/to/venv test     another environment
#   make JOBS=4 test                         on four cores; JOBS=0: in one process, as a debugger wants it

VENV ?= .venv
PYTHON ?=
JOBS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.decentral-installed
PROTO_FILES := $(wildcard protos/decentral/wire/v1/*.proto)
PROTOC := $(BIN)/python -m grpc_tools.protoc -Iprotos
# Whoever has nothing left to do takes half of what another still has.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# Scripts beside the package; the peers' runners import what is not installed here.
TYPED := $(wildcard nodes/*.py) $(filter-out benchmarks/peer_%,$(wildcard benchmarks/*.py))

# The first interpreter that is new enough and can make an environment.
FIND_PYTHON = for python in $(PYTHON) $(if $(PYTHON),,python3 python3.14 python3.13 python3.12 python3.11 python); do \
		$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
			&& { echo $$python; exit 0; }; done; exit 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all coverage check protos bench clean
.DELETE_ON_ERROR:

help:  ## what can be done here
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP)  ## an environment with decentral and its tools, in .venv

$(STAMP): pyproject.toml constraints.txt
	@started=$$(date +%s); \
	if [ ! -x $(BIN)/python ]; then \
		python=$$($(FIND_PYTHON)) || { echo "decentral needs Python 3.11 or later with venv: make PYTHON=/path/to/it $(MAKECMDGOALS)" >&2; exit 1; }; \
		echo "making $(VENV) with $$($$python --version)"; \
		$$python -m venv $(VENV) || exit 1; \
	fi; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' || exit 1; \
	touch $@; \
	echo "installed into $(VENV) in $$(( $$(date +%s) - started )) s"

demo: setup  ## train 5 peers on real images over mutual-TLS gRPC and print what came out
	$(BIN)/decentral demo

test: setup  ## the tests that take seconds
	$(PYTEST) -m "not slow"

test-all: setup  ## every test
	$(PYTEST)

coverage: setup  ## how much of the mathematics the tests execute; at least 95 %
	$(BIN)/python -m pytest -q -m "not slow" tests/core --cov=decentral.core --cov-report=term-missing --cov-fail-under=95

check: setup  ## style, types, floors, generated code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases $(TYPED)
	PYTHONPATH=. $(BIN)/lint-imports
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PROTOC) --python_out=$$fresh --pyi_out=$$fresh --grpc_python_out=$$fresh $(PROTO_FILES) && \
	diff -r -x __init__.py -x __pycache__ $$fresh/decentral/wire/v1 decentral/wire/v1 && \
	echo "generated code is up to date" || { echo "decentral/wire/v1 differs from protos/: make protos" >&2; exit 1; }

protos: setup  ## generate decentral/wire/v1 from protos/
	$(PROTOC) --python_out=. --pyi_out=. --grpc_python_out=. $(PROTO_FILES)

bench: setup  ## measure every claim but the *_accuracy ones (hours); results as JSON in .cache/benchmarks
	@mkdir -p .cache/benchmarks; missed=; \
	for claim in benchmarks/*.py; do name=$$(basename $$claim .py); \
		grep -q -- '"--json"' $$claim || continue; case $$name in *_accuracy) continue;; esac; echo "== $$name"; \
		$(BIN)/python -m benchmarks.$$name --json .cache/benchmarks/$$name.json || missed="$$missed $$name"; done; \
	test -z "$$missed" || { echo "missed a goal, or failed:$$missed"; exit 1; }

clean:  ## remove what can be made again: the environment, caches, builds (never runs/)
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage htmlcov build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
