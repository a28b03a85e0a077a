# Everything a user or CI needs; each target makes .venv first if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= configs/resnet.yaml
ARGS ?=

.PHONY: setup run check test bench test-gpu reliability fuzz clean

# One pip command resolves torch and torchvision together: mixed builds do not import.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

setup: $(VENV)/.installed  ## make .venv with everything

run: setup  ## train a small ResNet on bundled images (ARGS='precision=bf16')
	$(BIN)/mptrain run $(CONFIG) $(ARGS)

check: setup  ## format, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Files in their order: by number of tests the long ones with few tests would come last, and one core idle.
test: setup  ## the test suite, CPU only
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not gpu and not slow' $(ARGS)

test-gpu: setup  ## tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu tests/gpu $(ARGS)

reliability: setup  ## every drill: kills, power cuts, damage, full disks, signals; writes the table of docs/reliability.md
	$(BIN)/python -m tests.reliability $(ARGS)

fuzz: setup  ## 20,000 bad inputs against the command line
	$(BIN)/python -m tests.fuzz $(ARGS)

bench: setup  ## overhead against a plain PyTorch loop
	$(BIN)/python -m benchmarks.overhead $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info
