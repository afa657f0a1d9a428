# make demo · make test · make check: each sets up what it needs, in .venv

PYTHON ?= python3
BIN := .venv/bin
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: demo test check

demo: .venv/.ready
	$(BIN)/fedtl compare digits

test: .venv/.ready
	$(BIN)/python -m pytest -n 2 -q

check: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedtl needs Python 3.11 or newer; say which: make PYTHON=python3.11")'
	@echo "Setting up .venv: a few minutes the first time"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@echo "torch is here; now the rest"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@
