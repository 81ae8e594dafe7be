# What there is to do with this project, from a fresh clone: Python 3.11 or later (with venv) and make are enough.

# The interpreter that the environment is made with: make test PYTHON=/usr/bin/python3.12
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
comma := ,
WORKERS ?= 2
# The tests are the same everywhere; JAX_PLATFORMS=cuda make test runs them on a GPU.
JAX_PLATFORMS ?= cpu
TEST = JAX_PLATFORMS=$(JAX_PLATFORMS) $(BIN)/python -m pytest
PARALLEL = -n $(WORKERS) --dist worksteal

# Named, or the default one, which comes with the package.
CHECKPOINT ?=
PROMPT ?= A red circle moves to the right on a plain grey background.
DEMO := outputs/demo.mp4

# $(call python,NAMES,MINIMUM): a shell command that prints the first of NAMES that runs and is new enough.
python = for name in $(1); do \
  "$$name" -c 'import sys; sys.exit(sys.version_info < $(2))' 2>/dev/null && { echo "$$name"; break; }; done
# $(call install,ENVIRONMENT,PACKAGES): with uv where it is present and reaches the package index, else with pip.
install = { command -v uv >/dev/null && uv pip install --quiet --python $(1)/bin/python $(2) 2>/dev/null; } \
  || $(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2)

.PHONY: help setup demo test test-all test-newest lint bench clean
.DELETE_ON_ERROR:

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(VENV)/installed  ## the environment in .venv; the others call it

$(VENV)/installed: pyproject.toml
	@python=$$($(call python,$(or $(PYTHON),python3.11 python3 python3.12 python3.13 python),(3$(comma) 11))); \
	if [ -z "$$python" ]; then \
	  echo "error: no Python 3.11 or later among: $(or $(PYTHON),python3.11 python3 python3.12 python3.13 python);" \
	    "install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; fi; \
	echo "Setting up $(VENV) with $$("$$python" --version); the first time downloads JAX and takes minutes."; \
	"$$python" -m venv --clear $(VENV)
	@$(call install,$(VENV),--editable '.[dev]')
	@touch $@

demo: setup  ## makes a video with the main command and prints its path
	@mkdir -p $(dir $(DEMO))
	$(BIN)/python sample.py t2v $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)") --prompt "$(PROMPT)" \
	  $(if $(CHECKPOINT),--height 96 --width 160 --num-frames 13 --steps 8) --out $(DEMO)

test: setup lint  ## style and the test suite
	$(TEST) $(PARALLEL)

test-all: setup lint  ## the heavier proofs too
	$(TEST) $(PARALLEL) -m ''

test-newest:  ## the smoke set on the newest JAX, where there is Python 3.12 or later
	@python=$$($(call python,$(or $(PYTHON),python3.13 python3.12 python3.14 $(wildcard $(HOME)/.pyenv/versions/3.1[23].*/bin/python)),(3$(comma) 12))); \
	if [ -z "$$python" ]; then echo "No Python 3.12 or later: the smoke set on the newest JAX is left out."; exit 0; fi; \
	"$$python" -m venv $(VENV)-newest && { $(call install,$(VENV)-newest,--upgrade jax flax --editable '.[dev]'); } && \
	$(VENV)-newest/bin/python -c 'import jax, sys; print("JAX", jax.__version__, "on Python", sys.version.split()[0])' && \
	$(TEST:$(BIN)%=$(VENV)-newest/bin%) -m 'smoke and not slow'

lint: setup
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .

bench:  ## lists the benchmarks; benchmarks/README.md says how they are run
	@for script in $$(ls benchmarks/*.py | grep -v -e __init__ -e common); do \
	  printf '%s -m benchmarks.%s\n    %s\n' "$(BIN)/python" "$$(basename $$script .py)" \
	    "$$(head -n 1 $$script | tr -d '"')"; done

clean:  ## removes the environments, caches and outputs
	rm -rf $(VENV) $(VENV)-newest outputs build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
