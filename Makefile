# make demo    one kernel of every type through a real server; JSON under out/
# make test    the tests; those marked gpu run where there is a GPU
# make lint    ruff and mypy
# make format  rewrites the sources as ruff would
# make clean   removes the environment and everything generated
#
# Set-up happens by itself, once, into .venv. PYTHON=… chooses the interpreter for it. NO_VENV=1
# skips it and uses PYTHON (or python3) with whatever it has installed, as on a GPU machine whose
# Python already holds torch. ARGS=… goes to pytest or to the demo.

SHELL := /bin/bash
VENV := .venv

ifdef NO_VENV
PY := $(or $(PYTHON),python3)
READY :=
export PYTHONPATH := $(CURDIR)/src$(if $(PYTHONPATH),:$(PYTHONPATH))
else
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
endif

.PHONY: demo test lint format setup clean

demo: $(READY)
	$(PY) -m kerneljudge demo --output out/ $(ARGS)

test: $(READY)
	$(PY) -m pytest $(ARGS)

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(READY)
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

setup: $(READY)

$(VENV)/.ready: pyproject.toml constraints.txt scripts/setup.sh
	bash scripts/setup.sh $(VENV)

clean:
	rm -rf $(VENV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
