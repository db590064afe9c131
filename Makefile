PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INURE := $(BIN)/inure
DEMO := runs/demo
# Tests at once; a test of several processes brings its own
WORKERS ?= 2

.PHONY: help install demo test lint test-slow test-gpu clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(VENV)/.installed  ## .venv with the package and the tools for tests

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group test --editable .
	touch $@

demo: install  ## one net for clean and attacked digits, the dial between them, a report: about three minutes
	rm -rf $(DEMO)
	# Two at once, a core each
	($(INURE) train digits/standard -q --out $(DEMO)/standard && \
	  $(INURE) evaluate $(DEMO)/standard --threat linf:0.2 -q) >/dev/null & \
	standard=$$!; $(INURE) train digits/soup --out $(DEMO)/soup && wait $$standard
	($(INURE) evaluate $(DEMO)/soup 2>$(DEMO)/modes.txt && \
	  $(INURE) evaluate $(DEMO)/soup --mode clean 2>>$(DEMO)/modes.txt) >/dev/null & \
	modes=$$!; $(INURE) soup $(DEMO)/soup --grid=-0.2:1.2:0.2 && wait $$modes
	@cat $(DEMO)/modes.txt
	@$(INURE) report $(DEMO)/soup $(DEMO)/standard --out $(DEMO)/report.html

test: install lint  ## lint, types and tests: what CI runs
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: install  ## ruff, pyright, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo --no-cache

test-slow: install  ## minutes of training on the CPU
	$(BIN)/python -m pytest -m slow

test-gpu: install  ## needs CUDA
	$(BIN)/python -m pytest -m gpu

clean:  ## remove what make made, the environment too
	rm -rf $(VENV) $(DEMO) build dist .pytest_cache .ruff_cache
