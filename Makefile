# Nothing but Python is needed: the first target you call makes .venv with the tested versions.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.ezsd-installed
# A folder with images/, instances_train.json and instances_val.json (COCO format).
PHOTOS ?= ../shared/data/coco2k
OUT ?= runs/demo

.PHONY: install demo test lint

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[offline,pocket,dev]"
	touch $@

demo: install
	@for part in images instances_train.json instances_val.json; do \
		if [ ! -e "$(PHOTOS)/$$part" ]; then \
			echo "$(PHOTOS)/$$part is missing. Give a folder with images/, instances_train.json, instances_val.json"; \
			echo "(COCO format and category names): make demo PHOTOS=path/to/folder"; \
			echo "One can be made from COCO's val2017 photos and annotations (cocodataset.org):"; \
			echo "  $(VENV)/bin/python benchmarks/make_coco2k.py --val2017 val2017 \\"; \
			echo "      --annotations annotations/instances_val2017.json --out path/to/folder"; \
			exit 2; \
		fi; \
	done
	$(VENV)/bin/ezsd run recipes/smoke.yaml --out $(OUT) \
		--set data.train.images=$(PHOTOS)/images --set data.train.annotations=$(PHOTOS)/instances_train.json \
		--set data.val.images=$(PHOTOS)/images --set data.val.annotations=$(PHOTOS)/instances_val.json

test: install
	$(VENV)/bin/python -m pytest

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
