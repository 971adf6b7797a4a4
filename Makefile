# From nothing but Python 3.11 (or newer) and make. `make` alone lists the targets.
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

# The first of these that runs, is new enough and can make a virtual environment.
CANDIDATES := python3.11 python3.12 python3.13 python3
SUITABLE := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
PYTHON = $(shell for p in $(CANDIDATES); do "$$p" -c '$(SUITABLE)' 2>/dev/null && echo "$$p" && break; done)

.DELETE_ON_ERROR:
.PHONY: help venv quickstart test lint

help:  ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

venv: $(INSTALLED)  ## The environment alone: installs what is missing

quickstart: shards/demo/manifest.json  ## Train, evaluate and report on the embedded catalogue
	rm -rf runs/quickstart
	$(VENV)/bin/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		train.py experiment=quickstart output_dir=runs/quickstart

test: $(INSTALLED)  ## The test suite; with ARGS='-m slow' the slow tests
	HF_HUB_OFFLINE=1 $(PY) -m pytest -n auto --maxprocesses 4 $(ARGS)

lint: $(INSTALLED)  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

shards/demo/manifest.json: | $(INSTALLED)
	$(PY) -m gcl prepare source=demo output_dir=shards/demo

# site-packages changes when anything is installed or removed, so that a missing package is noticed.
$(INSTALLED): pyproject.toml constraints.txt $(wildcard $(VENV)/lib/python3*/site-packages) | $(VENV)/bin/pip
	$(PY) -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/bin/pip:
	@"$(PYTHON)" -c '$(SUITABLE)' 2>/dev/null || { echo "gcl needs Python 3.11 or newer with venv; tried" \
		"$(or $(PYTHON),$(CANDIDATES)); name one, as in: make venv PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
