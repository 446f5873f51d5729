# `make demo` and `make test` do all their own set-up: a .venv with what each needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Sandboxes need Linux namespaces; elsewhere the demo says that its isolation is weaker.
DEMO_OPTIONS := $(if $(filter Linux,$(shell uname -s)),,--isolation process)
# Of compose/compose.yaml; `make up PROFILES="kafka rabbitmq"` starts those alone.
PROFILES ?= aws kafka rabbitmq postgres
COMPOSE  := docker compose -f compose/compose.yaml
SOURCES = src triggers mappings runtime destinations tests benchmarks examples

.PHONY: help demo test check unit bench format lint types layers clean up down
help:
	@echo "make demo    watch messages go through two mappings on a local AWS endpoint"
	@echo "make test    every test, real brokers and sandboxes included"
	@echo "make check   format, lint, types, layers, unit tests: about three minutes on two cores"
	@echo "make bench   every benchmark, each beside its baseline"
	@echo "make up      brokers in containers, on 127.0.0.1: PROFILES=\"aws kafka rabbitmq postgres\""
	@echo "make down    ends them, and what they held"

$(VENV)/.demo: pyproject.toml
	@$(PYTHON) scripts/setup.py $(VENV) demo
	@touch $@

$(VENV)/.dev: pyproject.toml
	@$(PYTHON) scripts/setup.py $(VENV) dev
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	@$(BIN)/millstream demo $(DEMO_OPTIONS)

test: $(VENV)/.dev
	@$(PYTHON) scripts/brokers.py
	@$(BIN)/python -m scripts.languages
	@$(BIN)/pytest -n 2 --dist loadfile

unit: $(VENV)/.dev
	@$(BIN)/pytest -q -n auto -m "not broker" --hypothesis-profile quick --schedules 200

check: format lint types layers unit

format: $(VENV)/.dev
	@$(BIN)/ruff format --check $(SOURCES)

lint: $(VENV)/.dev
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/python scripts/file_lengths.py

types: $(VENV)/.dev
	@$(BIN)/mypy
	@$(BIN)/mypy tests benchmarks

layers: $(VENV)/.dev
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

bench: $(VENV)/.dev
	@for name in sqs kinesis dynamodb kafka rabbitmq shards coldstart cold-imports runtime neighbours idle flat stall; do $(BIN)/python -m benchmarks $$name || exit 1; done

up:
	@$(COMPOSE) version >/dev/null 2>&1 || { echo "up: wanted Docker and its compose plugin, found none" >&2; exit 1; }
	@$(COMPOSE) $(addprefix --profile ,$(PROFILES)) up --detach --wait

down:
	@$(COMPOSE) version >/dev/null 2>&1 || { echo "down: wanted Docker and its compose plugin, found none" >&2; exit 1; }
	@$(COMPOSE) --profile "*" down --volumes

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist src/*.egg-info
