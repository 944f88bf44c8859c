# The two commands that matter: make demo, make test. Each does all of its own set-up and is quick the second time.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
SECONDS_OF_DEMO ?=
BENCHMARKS := throughput latency series scaling emitter

.DEFAULT_GOAL := help
.PHONY: help demo test faults lint format docs docs-check picture servers bench wheel clean

help: ## show what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

demo: $(INSTALLED) ## set everything up and watch it work on this machine
	@$(BIN)/tidegauge demo $(if $(SECONDS_OF_DEMO),--seconds $(SECONDS_OF_DEMO))

test: $(INSTALLED) servers lint docs-check ## check everything, against a real Kafka and a real InfluxDB
	@echo "== tests"
	@$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(PYTEST)

faults: $(INSTALLED) servers ## break everything under load, and write docs/reliability.md (an hour)
	@echo "== faults"
	@TIDEGAUGE_RELIABILITY=docs/reliability.md TIDEGAUGE_REQUIRE_SERVERS=1 $(BIN)/python -m pytest -m fault $(PYTEST)

lint: $(INSTALLED) ## style, types and the layers between the folders
	@echo "== style: ruff check, ruff format"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@echo "== types: mypy"
	@$(BIN)/mypy -p tidegauge
	@$(BIN)/mypy benchmarks
	@echo "== layers: import-linter"
	@$(BIN)/lint-imports

format: $(INSTALLED) ## put the code into the project's style
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: $(INSTALLED) ## write anew what is generated: the schema documents and the reference pages
	@$(BIN)/python -m tidegauge.schemas.documents
	@$(BIN)/python -m tidegauge.reference

picture: $(INSTALLED) ## run a demo for five minutes and draw the README's picture from it
	@$(BIN)/python docs/make_picture.py

docs-check: $(INSTALLED) ## check that what is generated says what the code says
	@echo "== generated documents"
	@$(BIN)/python -m tidegauge.schemas.documents --check
	@$(BIN)/python -m tidegauge.reference --check

servers: ## put Kafka and InfluxDB into .cache (the first time: 5 minutes)
	@echo "== servers"
	@deploy/local/kafka.sh install
	@deploy/local/influxdb.sh install

bench: $(INSTALLED) servers ## run the benchmarks, in their short form
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python "benchmarks/$$name.py" --quick; done

wheel: $(INSTALLED) ## build the wheel into dist/
	@$(BIN)/python -m build --wheel

clean: ## remove what the build and the tests left; keeps .venv and .cache
	@rm -rf build dist *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@echo "== packages, into $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tidegauge needs Python 3.11 or newer; make PYTHON=…")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
