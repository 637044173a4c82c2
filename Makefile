# `make search` and `make test` set up all they need in .venv, which is kept between calls.

PYTHON ?= python3
VENV := .venv
RUN ?= runs/mobilenetv1-eyeriss

.PHONY: search test lint docs clean

search: $(VENV)/installed
	$(VENV)/bin/mqjax search --arch eyeriss --network mobilenetv1 --dataset fashion_mnist --accuracy finetune:0 --out $(RUN)

test: $(VENV)/tested
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/tested
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	rm -rf build
	$(VENV)/bin/pip install --quiet --no-deps --target build/typed .
	$(VENV)/bin/pyright

# Without network once the packages are there.
docs: $(VENV)/documented
	rm -rf build
	$(VENV)/bin/pip install --quiet --no-deps --target build/typed .
	$(VENV)/bin/mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade "pip>=25.1"

$(VENV)/installed: $(VENV)/bin/python pyproject.toml setup.py
	$(VENV)/bin/pip install --quiet --editable .
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(VENV)/bin/pip install --quiet --group dev
	touch $@

$(VENV)/documented: $(VENV)/installed
	$(VENV)/bin/pip install --quiet --group docs
	touch $@

clean:
	rm -rf $(VENV)
