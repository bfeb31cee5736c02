# Everything lives in .venv: `make install` is all the set-up a fresh machine needs (Python 3.11, a C++ compiler, make).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

# youtokentome imports Cython before pip could provide it, and learns the same merges every time only with this flag
YOUTOKENTOME_FLAGS := -DDETERMINISTIC_QUEUE

.PHONY: help install test test-slow lint demo clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: $(INSTALLED)  ## install everything into .venv

$(INSTALLED): pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make install PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'torch>=2.10,<2.14'
	$(PIP) cython setuptools wheel
	CFLAGS=$(YOUTOKENTOME_FLAGS) CXXFLAGS=$(YOUTOKENTOME_FLAGS) \
		$(PIP) --no-build-isolation --no-cache-dir --no-binary youtokentome 'youtokentome>=1.0.6'
	$(PIP) --editable '.[youtokentome,deepspeed,dev]'
	touch $@

test: install  ## run the fast tests
	$(BIN)/ruff check dalle_cli tests
	$(BIN)/python -m pytest

test-slow: install  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: install  ## check and format the code
	$(BIN)/ruff check --fix dalle_cli tests
	$(BIN)/ruff format dalle_cli tests

demo: install  ## train everything on toy scenes in minutes, draw, and measure
	$(BIN)/dalle demo --run runs/demo

clean:  ## remove what the tests and tools leave behind; runs stay
	rm -rf .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
