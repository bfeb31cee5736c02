# `make install` puts everything into .venv; a fresh machine needs Python 3.11, a C++ compiler and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CODE := dalle_cli tests benchmarks
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
PEER := build/peer-venv
PEER_PIP := $(PEER)/bin/pip install --quiet --disable-pip-version-check

# without this flag, youtokentome does not learn the same merges every time
YOUTOKENTOME_FLAGS := -DDETERMINISTIC_QUEUE

# Variables of the batch jobs, as in: make train-dvae RECIPE=dvae/emoji DATA=birds/ RUN=runs/birds-dvae
RECIPE ?=
DATA ?=
RUN ?=
DVAE ?=
CLIP ?=
PROMPTS ?=
OUT ?=
GPUS ?=
ARGS ?=

# of `make bench`: cpu or cuda; not ?=, since an environment may have a DEVICE of its own
DEVICE = cpu

# a value as one word of the shell, whatever characters it has
quote = '$(subst ','\'',$(1))'

SAMPLES = $(or $(OUT),$(RUN)/samples/$(basename $(notdir $(PROMPTS))))
TRAIN = $(call quote,$(RECIPE)) --data $(call quote,$(DATA)) --run $(call quote,$(RUN)) $(if $(GPUS),--gpus $(GPUS)) $(ARGS)

given-%:
	@test -n $(call quote,$($*)) || { echo "$* is not given: make $(MAKECMDGOALS) $*=..." >&2; exit 2; }

.PHONY: help install test test-thorough test-slow test-distributed test-browser test-gpu mutants smoke bench bench-peer lint docs demo demo-unclip emoji64 try clean train train-dvae train-transformer train-clip train-prior train-decoder generate rerank
.DEFAULT_GOAL := help

# prints the first word of each line in a column, and the others wrapped by word beside it
define WRAP
{
	line = sprintf("%-18s", $$1)
	for (i = 2; i <= NF; i++) {
		if (length(line) + 1 + length($$i) > width) { print line; line = sprintf("%18s", "") }
		line = line " " $$i
	}
	print line
}
endef
export WRAP

help:  ## list the targets
	@sed -nE 's/^([a-z0-9-]+):.*## /\1 /p' $(MAKEFILE_LIST) | awk -v width="$${COLUMNS:-80}" "$$WRAP"

train: given-DATA given-RUN install  ## train all models that it takes, or resume: DATA RUN [GPUS ARGS]
	$(BIN)/dalle train $(call quote,$(DATA)) --run $(call quote,$(RUN)) $(if $(GPUS),--gpus $(GPUS)) $(ARGS)

train-dvae: given-RECIPE given-DATA given-RUN install  ## train a dVAE, or resume: RECIPE DATA RUN [GPUS ARGS]
	$(BIN)/dalle train-dvae $(TRAIN)

train-transformer: given-RECIPE given-DATA given-RUN given-DVAE install  ## train a transformer, or resume: RECIPE DATA RUN DVAE [GPUS ARGS]
	$(BIN)/dalle train-transformer $(TRAIN) --dvae $(call quote,$(DVAE))

train-clip: given-RECIPE given-DATA given-RUN install  ## train a CLIP, or resume: RECIPE DATA RUN [GPUS ARGS]
	$(BIN)/dalle train-clip $(TRAIN)

train-prior: given-RECIPE given-DATA given-RUN given-CLIP install  ## train DALL-E 2's prior, or resume: RECIPE DATA RUN CLIP [GPUS ARGS]
	$(BIN)/dalle train-prior $(TRAIN) --clip $(call quote,$(CLIP))

train-decoder: given-RECIPE given-DATA given-RUN given-CLIP install  ## train DALL-E 2's decoder, or resume: RECIPE DATA RUN CLIP [GPUS ARGS]
	$(BIN)/dalle train-decoder $(TRAIN) --clip $(call quote,$(CLIP))

generate: given-RUN given-PROMPTS install  ## generate pictures, or resume, into OUT or RUN/samples/<name of PROMPTS>: RUN PROMPTS [OUT PRIOR CLIP GPUS ARGS]
	$(BIN)/dalle generate $(call quote,$(RUN)) --prompts $(call quote,$(PROMPTS)) $(if $(PRIOR),--prior $(call quote,$(PRIOR))) $(if $(CLIP),--clip $(call quote,$(CLIP))) $(if $(GPUS),--gpus $(GPUS)) --out $(call quote,$(SAMPLES)) $(ARGS)

rerank: given-RUN given-PROMPTS given-CLIP install  ## copy the best of these into <...>-best: RUN PROMPTS CLIP [OUT GPUS ARGS]
	$(BIN)/dalle rerank $(call quote,$(SAMPLES)) --clip $(call quote,$(CLIP)) --out $(call quote,$(SAMPLES)-best) $(if $(GPUS),--gpus $(GPUS)) $(ARGS)

install: $(INSTALLED)  ## install everything into .venv

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make install PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'torch>=2.10,<2.14'
	$(PIP) cython setuptools wheel  # youtokentome's build imports Cython before pip provides it
	CFLAGS=$(YOUTOKENTOME_FLAGS) CXXFLAGS=$(YOUTOKENTOME_FLAGS) \
		$(PIP) --no-build-isolation --no-cache-dir --no-binary youtokentome 'youtokentome>=1.0.6'
	$(PIP) --editable '.[youtokentome,deepspeed,dev]'
	touch $@

test: install  ## check style and types and run the fast tests, one process per core
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto

test-thorough: install  ## run the tests that take seconds each: whole runs, commands that are stopped and resumed
	$(BIN)/python -m pytest -n auto -m "thorough and not slow and not gpu and not distributed and not browser"

test-slow: install  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-distributed: install  ## run the tests that start several processes
	$(BIN)/python -m pytest -m "distributed and not slow"

test-browser: export DALLE_SCREENSHOTS = $(CURDIR)/build/screenshots
test-browser: install  ## look at pages in Chromium, if there is one, and keep pictures of them in build/screenshots
	$(BIN)/python -m pytest -m browser

# where there is no network: make -o install test-gpu BIN=FOLDER, the one of a Python with all it takes
test-gpu: install  ## run the tests that need a GPU, with a table, and figures in build/gpu-tests.json: [ARGS=WORDS]
	@$(BIN)/python tests/gpu $(ARGS)

mutants: install  ## make small changes to the code, one at a time, and list those that no test notices: [ARGS=WORDS]
	$(BIN)/python tests/mutants.py $(ARGS)

smoke: SMOKE := build/smoke
smoke: export XDG_CACHE_HOME = $(CURDIR)/build/smoke/cache
smoke: install  ## run every batch job on tiny recipes, in seconds
	rm -rf $(SMOKE)
	$(BIN)/dalle data shapes $(SMOKE)/data --pictures 24
	$(MAKE) train-dvae RECIPE=dvae/tiny DATA=$(SMOKE)/data/train RUN=$(SMOKE)/dvae
	$(MAKE) train-transformer RECIPE=transformer/tiny DATA=$(SMOKE)/data/train DVAE=$(SMOKE)/dvae RUN=$(SMOKE)/dalle
	$(MAKE) train-clip RECIPE=clip/tiny DATA=$(SMOKE)/data/train RUN=$(SMOKE)/clip
	$(MAKE) train-prior RECIPE=prior/tiny DATA=$(SMOKE)/data/train CLIP=$(SMOKE)/clip RUN=$(SMOKE)/prior
	$(MAKE) train-decoder RECIPE=decoder/tiny DATA=$(SMOKE)/data/train CLIP=$(SMOKE)/clip RUN=$(SMOKE)/decoder
	head -n 3 $(SMOKE)/data/unseen.txt > $(SMOKE)/prompts.txt
	$(MAKE) generate RUN=$(SMOKE)/dalle PROMPTS=$(SMOKE)/prompts.txt ARGS='-n 2'
	$(MAKE) rerank RUN=$(SMOKE)/dalle PROMPTS=$(SMOKE)/prompts.txt CLIP=$(SMOKE)/clip ARGS='--top-k 1'
	$(MAKE) generate RUN=$(SMOKE)/decoder PRIOR=$(SMOKE)/prior PROMPTS=$(SMOKE)/prompts.txt ARGS='-n 2'
	test -s $(SMOKE)/dalle/samples/prompts-best/scores.csv

bench: install  ## compare speed and memory with other libraries, into build/bench.json, or measure a GPU, into build/gpu-bench.json: [DEVICE=cuda ARGS=ROUNDS]
	@$(BIN)/python benchmarks --device $(DEVICE) $(ARGS)

bench-peer: $(PEER)/.installed  ## install dalle-pytorch for `make bench`, in a separate environment

# --no-deps: its transformer needs few of its dependencies; it imports pkg_resources, which setuptools 81 lacks
$(PEER)/.installed: | install
	$(BIN)/python -m venv --clear $(PEER)
	$(PEER_PIP) "torch==$$($(BIN)/python -c 'from importlib.metadata import version; print(version("torch").split("+")[0])')"
	$(PEER_PIP) 'setuptools<81' einops ftfy numpy omegaconf packaging pillow pyyaml regex requests tqdm
	$(PEER_PIP) --no-deps dalle-pytorch==1.6.6 axial-positional-embedding==0.3.12 rotary-embedding-torch==0.9.1
	touch $@

lint: install  ## format the code and fix what can be fixed
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

docs: install  ## write docs/recipe-keys.md from the tables in dalle_cli/config/
	$(BIN)/dalle recipes keys > docs/recipe-keys.md

# Its seed keeps in training what people try first, such as hearts, dogs and pizza
emoji64: EMOJI := runs/emoji64
emoji64: PICTURES := --data $(EMOJI)/data/train/plain --data $(EMOJI)/data/train/skin-tones@0.2 --valid $(EMOJI)/data/held-out
emoji64: TOKENS := --data $(EMOJI)/tokens/plain --data $(EMOJI)/tokens/skin-tones@0.2 --valid $(EMOJI)/tokens/held-out
emoji64: install  ## train emoji models, or resume: three hours on two CPU cores
	test -d $(EMOJI)/data || $(BIN)/dalle data emoji $(EMOJI)/data --size 64 --held-out-share 0.05 --seed 12
	$(BIN)/dalle train-dvae dvae/emoji64 $(PICTURES) --run $(EMOJI)/dvae
	for part in train/plain train/skin-tones held-out; do \
		$(BIN)/dalle data encode $(EMOJI)/data/$$part --dvae $(EMOJI)/dvae --out $(EMOJI)/tokens/$$(basename $$part) --copies 1 || exit; \
	done
	$(BIN)/dalle train-transformer transformer/emoji64 $(TOKENS) --dvae $(EMOJI)/dvae --run $(EMOJI)/noisy
	$(BIN)/dalle train-transformer transformer/emoji64 $(TOKENS) --dvae $(EMOJI)/dvae --run $(EMOJI)/transformer --init-from $(EMOJI)/noisy --steps 2000 --set optimizer.lr.start=7e-4 --set loss.token_noise=0.4
	$(BIN)/dalle train-clip clip/emoji64 $(PICTURES) --run $(EMOJI)/clip
	test -f $(EMOJI)/transformer/about.toml || cp pretrained/emoji/about.toml $(EMOJI)/transformer/
	test -d $(EMOJI)/export || $(BIN)/dalle export $(EMOJI)/transformer --clip $(EMOJI)/clip --half --out $(EMOJI)/export

# not ?=, since some systems set NAME to that of the machine
NAME = emoji

try: install  ## generate the example captions of a model that comes with dalle, into build/try/NAME: [NAME ARGS]
	$(BIN)/dalle generate '$(NAME)' -n 4 --show --out 'build/try/$(NAME)' $(ARGS)

demo: install  ## train all three models on toy scenes in minutes, generate, and measure
	$(BIN)/dalle demo --run runs/demo

demo-unclip: install  ## train DALL-E 2 on toy scenes, generate, vary and blend pictures, and measure
	$(BIN)/dalle demo-unclip --run runs/demo-unclip

clean:  ## remove what tests and tools leave behind, except runs
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
