# `make run`: the demo, from nothing. `make test`: the tests that need no model library, from nothing. Each target makes
# its own environment: `make test-models` and `make train-demo` one with torch, `make test-vllm` that one and one with a
# vLLM for the CPU.
PYTHON ?= python3
VENV ?= .venv
MODELS_VENV ?= .venv-models
VLLM_VENV ?= .venv-vllm
BIN = $(VENV)/bin
MODELS_BIN = $(MODELS_VENV)/bin
# Of what is installed a fraction is ever imported: that is compiled when it is, not all of it before.
INSTALL = pip install --quiet --no-compile
# Exact versions of what is installed; with torch, those of tests/environments/constraints-cpu.txt too.
LOCKED = --constraint constraints.txt
MODELS_LOCKED = $(LOCKED) --constraint tests/environments/constraints-cpu.txt
# Three of the processes begin with the tests that use Ray (tests/conftest.py).
WORKERS ?= 3
PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# What needs nothing but this process: the tests to run after each change.
QUICK = not (ray or own_ray or servers or browser or s3 or torch or vllm or slow)
CHECKED = ugaf stages tests benchmarks
# Tests start hundreds of processes that import the same modules: compiled once, not by each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-quick test-slow test-models test-vllm train-demo smoke check format bench lock clean

run: $(VENV)/.base
	$(BIN)/python -m ugaf.run

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PARALLEL) -m "not (slow or torch or vllm)"

test-quick: $(VENV)/.test
	$(BIN)/python -m pytest $(PARALLEL) -m "$(QUICK)"

# Whole runs on Ray, kills, servers that die: what takes long.
test-slow: $(VENV)/.test
	$(BIN)/python -m pytest $(PARALLEL) -m "slow and not (torch or vllm)"

test-models: $(MODELS_VENV)/.ready
	UGAF_REQUIRE_MODELS=1 $(MODELS_BIN)/python -m pytest $(PARALLEL) -m torch

test-vllm: $(MODELS_VENV)/.ready
	$(PYTHON) tests/environments/vllm.py $(VLLM_VENV)
	UGAF_REQUIRE_MODELS=1 UGAF_REQUIRE_VLLM=1 UGAF_VLLM_PYTHON=$(abspath $(VLLM_VENV))/bin/python \
		$(MODELS_BIN)/python -m pytest -m vllm

# Every block of README.md as a user runs it, and every command that a page shows started.
smoke: $(VENV)/.test
	$(BIN)/python tests/smoke.py

check: $(VENV)/.dev
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy -n 2 || $(BIN)/mypy  # its processes lose each other on a busy machine now and then

format: $(VENV)/.dev
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

# From pairs to an editor and back into a pipeline: benchmarks/train_demo.py.
train-demo: $(MODELS_VENV)/.ready
	$(MODELS_BIN)/python benchmarks/train_demo.py

bench: $(VENV)/.benchmarks
	$(BIN)/python benchmarks/curation.py

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.base: $(BIN)/pip pyproject.toml constraints.txt
	$(BIN)/$(INSTALL) $(LOCKED) --editable .
	touch $@

$(VENV)/.benchmarks: $(VENV)/.base
	$(BIN)/$(INSTALL) $(LOCKED) --editable '.[benchmarks]'
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/$(INSTALL) $(LOCKED) --editable '.[test]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/$(INSTALL) $(LOCKED) --editable '.[test,dev]'
	touch $@

# ultralytics and rapidocr bring opencv-python, which writes over the files of the headless one and needs libGL: put
# those back.
$(MODELS_VENV)/.ready: pyproject.toml constraints.txt tests/environments/constraints-cpu.txt tests/support/torchvision_on_cpu.py
	$(PYTHON) -m venv $(MODELS_VENV)
	$(MODELS_BIN)/pip install --quiet --upgrade pip
	$(MODELS_BIN)/$(INSTALL) $(MODELS_LOCKED) torch
	$(MODELS_BIN)/$(INSTALL) $(MODELS_LOCKED) \
		--editable '.[test,transformers,diffusers,train,bench,ultralytics,ocr]'
	$(MODELS_BIN)/$(INSTALL) --force-reinstall --no-deps $(LOCKED) 'opencv-python-headless>=4.10,<5'
	$(MODELS_BIN)/python tests/support/torchvision_on_cpu.py $(MODELS_BIN)/python
	touch $@

# The newest versions that go together, in an environment of their own, written to constraints.txt.
lock:
	$(PYTHON) -m venv --clear $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet --upgrade pip
	$(VENV)-lock/bin/pip install --quiet --editable '.[test,dev,benchmarks]'
	{ head -n 1 constraints.txt; $(VENV)-lock/bin/pip freeze --exclude-editable; } > $(VENV)-lock/constraints.txt
	mv $(VENV)-lock/constraints.txt constraints.txt
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(MODELS_VENV) $(VLLM_VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
