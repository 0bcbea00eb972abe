# Nothing but Python is needed: the first target you call makes .venv with the tested versions.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.ezsd-installed
OUT ?= runs/demo

.PHONY: install demo test lint

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[offline,pocket,dev]"
	touch $@

demo: install
	$(VENV)/bin/ezsd demo --out $(OUT)

test: install
	$(VENV)/bin/python -m pytest

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
