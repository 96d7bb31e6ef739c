# Two commands for newcomers: `make demo` and `make test`. `make help` lists the rest.
#
# The first run makes the environment in .venv from requirements/lock.txt (with uv, which is fetched into it) and later
# runs reuse it until the lock changes. Choices for the first run; the choice of torch is remembered in .venv:
#
#   make demo TORCH_BACKEND=cpu         the locked torch without CUDA libraries: a much smaller download
#   make demo TORCH_BACKEND=auto        the build that fits this machine's driver ("default" goes back to the lock's)
#   make demo TORCH_WHEEL="/path/torch.whl /path/torchvision.whl"    Jetson's builds, from NVIDIA
#   make demo PYTHON=/path/to/python3.12        (RECREATE=1 when .venv is there already)
#
# More variables: ARGS="..." goes to the command (make demo ARGS="--task reach"); SLOW=1 adds the slow tests;
# WORKERS=n test processes; TESTS="tests/test_cli.py -k version" chooses tests.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
ARGS ?=
TESTS ?=
SLOW ?=
KILTED ?= .venv-kilted
WORKERS ?= 2
export PYTHON TORCH_BACKEND TORCH_WHEEL RECREATE

BIN := $(VENV)/bin
MARKS := $(if $(SLOW),not gpu,not slow and not gpu)
PYTEST := $(BIN)/python -m pytest

.PHONY: help demo test test-kilted test-gpu bench doctor lint format lock environment quantise-environment gl clean

help: ## what there is
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

demo: environment gl ## collect, train, export, evaluate; ends with the path of a report
	@$(BIN)/wam demo $(ARGS)

# One thread per process: two pytest workers with two torch threads each would fight over the cores.
test: environment gl ## the test suite (SLOW=1 for the slow tests as well)
	@OMP_NUM_THREADS=1 $(PYTEST) -n $(WORKERS) -m "$(MARKS)" $(TESTS)

# The markers of a Python environment that is already active must not reach one with other ROS libraries.
test-kilted: environment gl ## the ROS tests with ROS 2 Kilted in place of Jazzy, in an environment of its own
	@requirements/kilted.sh $(KILTED) $(VENV)
	@env -u _ROS_WHEELS_BOOTSTRAP_COMPLETE OMP_NUM_THREADS=1 $(KILTED)/bin/python -m pytest -n $(WORKERS) \
	  -m "ros and ($(MARKS))" $(or $(TESTS),$(shell grep -l 'mark\.ros' tests/test_*.py))

test-gpu: environment gl ## the tests that need a CUDA device
	@$(PYTEST) -m gpu $(TESTS)

bench: environment gl ## latency of the policy beside other policies on this machine
	@$(BIN)/wam bench $(ARGS)

doctor: environment ## what this machine can do, and how to get what is missing
	@$(BIN)/wam doctor $(ARGS)

lint: environment ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: environment ## ruff, with its automatic fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: environment ## resolve setup.py again to requirements/lock.txt (UPGRADE=1: to the newest versions)
	@$(BIN)/uv pip compile setup.py --extra dev --universal --python $(BIN)/python --quiet \
	  --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) --output-file requirements/lock.txt

environment: ## make or update .venv
	@requirements/environment.sh $(VENV)

quantise-environment: environment ## nvidia-modelopt in an environment of its own, for `wam quantise`
	@requirements/quantise.sh $(VENV)

gl: ## check the GL libraries MuJoCo renders with; installs them when run as root
	@requirements/gl.sh

clean: ## remove the environment, builds and caches; keeps runs/ and datasets/
	@rm -rf $(VENV) $(KILTED) build install log ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
