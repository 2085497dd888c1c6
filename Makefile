PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: help install demo bench faults test check clean

help:
	@echo 'make install   build .venv, with pinned dependencies; the others do so by themselves'
	@echo 'make demo      one whole turn of the wheel on real data; ARGS=--stay leaves the gateway up'
	@echo 'make test      lint, types, import rules and all tests; ARGS go to pytest'
	@echo 'make check     the same without the tests'
	@echo 'make bench     measure: NAME=bill, ARGS=--quick; writes build/bench'
	@echo 'make faults    break it and count what survived; ARGS="--only 1 --kills 40"'
	@echo 'make clean     remove .venv, build and caches'

install: $(READY)

# One whole turn of the wheel on real data; see README.
demo: $(READY)
	$(BIN)/feilun demo $(ARGS)

# make bench NAME=bill: measure, and write build/bench/bill.json with plots; ARGS names figures, or --quick.
NAME ?= bill
bench: $(READY)
	$(BIN)/python -m benchmarks.$(NAME) $(ARGS)

# make faults ARGS="--only 1 --kills 40": break it, count what survived, write build/faults/*.json; python -m faults --help.
faults: $(READY)
	$(BIN)/python -m faults $(ARGS)

test: check
	$(BIN)/pytest $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The environment is made anew when the dependencies change. torch comes first and by its exact version: with it in place,
# no other package asks the index for a build with accelerators.
$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis
