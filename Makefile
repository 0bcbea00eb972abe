# Nothing but Python is needed: the first target you call makes .venv with the tested versions.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.ezsd-installed
OUT ?= runs/demo
PYTEST = $(VENV)/bin/python -m pytest -n logical --maxprocesses 8 --dist worksteal

.PHONY: install demo test test-slow test-all lint docs

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[offline,pocket,video,heic,export,serve,docs,dev]"
	touch $@

demo: install
	$(VENV)/bin/ezsd demo --out $(OUT)

test: install
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST) -m slow

test-all: install
	$(PYTEST) --cov=ezsd --cov-report=term

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/hadolint docker/Dockerfile docker/onnx.Dockerfile
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml

docs: install
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
