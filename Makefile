# Everything a newcomer types. Each target makes and uses .venv in this folder.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install quickstart tiny doctor test slow exhaustive test-gpu lint check format docs docs-serve build clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/installed  ## make .venv and install the project in it (CPU torch where there is no NVIDIA GPU)

.venv/installed: pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python {v[0]}.{v[1]} is not supported: run make PYTHON=python3.12 (3.11, 3.12 or 3.13)")'
	$(PYTHON) -m venv .venv
	if nvidia-smi -L >/dev/null 2>&1; then \
	  $(BIN)/pip install -q -e '.[dev]'; \
	else \
	  $(BIN)/pip install -q --no-deps --retries 1 $$(sed -n "s/^# pip: //p" constraints-cpu.txt) $$(grep ^torch== constraints-cpu.txt) && \
	  $(BIN)/pip install -q -c constraints-cpu.txt -e '.[dev]'; \
	fi
	touch $@

quickstart: install  ## run the main job: five rounds in the embedded world, about ten minutes on two cores
	$(BIN)/itercomp run quickstart $(ARGS)

tiny: install  ## a whole run in about a minute, to see every part at work
	$(BIN)/itercomp run tiny $(ARGS)

doctor: install  ## what this machine has and lacks
	$(BIN)/itercomp doctor

# Two at a time, a thread each; tests of one file share what is costly to make, so a file stays with one process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: install  ## the fast tests
	$(PYTEST) $(ARGS)

slow: install  ## the slow tests
	$(PYTEST) -m slow $(ARGS)

exhaustive: install  ## every case of what the slow tests check in a few: all families and engines, a kill at every step
	$(PYTEST) -m exhaustive $(ARGS)

test-gpu: install  ## what only a GPU can show
	$(BIN)/python -m pytest -m gpu tests/gpu $(ARGS)

lint: install  ## format, lint and types
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright

check: lint test  ## lint and the fast tests

docs: install  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: install  ## show the documentation while you write it
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

build: install  ## a wheel in dist/
	$(BIN)/pip wheel -q --no-deps -w dist .

format: install  ## format and fix what can be fixed
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean:  ## remove .venv and caches; runs stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis site
