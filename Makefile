# The project's whole vocabulary. Python 3.11 or newer, pip and make are enough to begin.
.DEFAULT_GOAL := help
.PHONY: help demo test lint types docs bench soak servers

BIN := .venv/bin
PATHS := $(wildcard cachekit tests examples)

help:     ## say what the verbs do
	@sed -n 's/^\([a-z]*\): .*## \(.*\)/  make \1 : \2/p' Makefile

demo: .venv/.user      ## watch a cached function get fast, on the embedded server
	@$(BIN)/cachekit demo

test: .venv/.dev       ## run every test, on real servers too (ARGS= goes to pytest, as --cov)
	@scripts/prepare-tests.sh
	@scripts/with-dockerd.sh $(BIN)/python -m pytest $(ARGS)

lint: .venv/.dev       ## ruff, its formatting, and the import contract
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: .venv/.dev      ## mypy --strict and pyright
	@$(BIN)/mypy --strict $(PATHS)
	@$(BIN)/pyright $(wildcard cachekit tests/typing)

docs: .venv/.dev       ## run the examples of README.md, docs/ and docstrings
	@$(BIN)/python -m pytest -q README.md docs cachekit

bench: .venv/.bench    ## compare with the raw socket and with peers, side by side
	@$(BIN)/python -m benchmarks $(ARGS)

soak: .venv/.dev       ## check thousands of histories of many processes, calm and under faults (ARGS=)
	@scripts/prepare-tests.sh
	@PYTHONPATH=tests $(BIN)/python -m history.soak $(ARGS)

servers:               ## run three memcached servers and a gutter until Ctrl-C
	@scripts/prepare-tests.sh
	@scripts/with-dockerd.sh scripts/servers.sh

.venv/.user: pyproject.toml scripts/venv.sh
	@scripts/venv.sh .
	@touch $@

.venv/.dev: pyproject.toml scripts/venv.sh
	@scripts/venv.sh '.[cron,zstd]' --group dev
	@touch $@ .venv/.user

.venv/.bench: .venv/.dev benchmarks/requirements.txt
	@scripts/install-peers.sh benchmarks/requirements.txt
	@touch $@
