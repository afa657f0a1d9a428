# make demo · make test · make quick · make check · make docs · make bench · make bench-gpu · make bench-deploy · make bench-cluster · make wheelhouse: each sets up what it needs, in .venv

PYTHON ?= python3
BIN := .venv/bin
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
# Python keeps what it compiled: the tests start some hundred processes that import fedtl.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test quick nightly check docs bench bench-gpu bench-deploy bench-cluster wheelhouse

demo: .venv/.ready
	$(BIN)/fedtl compare digits

# The processes that tests start run side by side, and would wait for each other's threads.
test quick nightly: export OMP_NUM_THREADS := 1

# They write and sync thousands of small files: in memory where it has room (a container's often has 64 MB), else on the disk.
ROOM_KB := 8000000
test quick nightly: export TMPDIR := $(shell test "$$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt $(ROOM_KB) 2>/dev/null && echo /dev/shm || echo "$${TMPDIR:-/tmp}")

# Four workers on two cores: the tests of a deployment wait for most of their time.
test: .venv/.ready
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder -q

# The inner loop: without what takes long, starts processes, trains privately, audits, or repeats a test for every method or model.
# The marks say what these are; packages of which nothing would be left are not read.
NOT_READ := audit gpu privacy cli deployment simulations simulation/stacked
quick: .venv/.ready
	$(BIN)/python -m pytest $(NOT_READ:%=--ignore=tests/%) -n 2 --dist loadfile --no-loadscope-reorder -q -m "not (slow or nightly or process or private or zoo or audit)"

nightly: .venv/.ready
	$(BIN)/python -m pytest -n 2 -q -m nightly

check: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# A warning, such as a link that leads nowhere, ends it. The pages are in build/docs/index.html; a browser opens some, where there is one.
docs: .venv/.ready
	PYTHONPATH=. $(BIN)/python -m sphinx -c docs -b html -q -W --keep-going -n -d build/doctrees . build/docs
	$(BIN)/python -m tests.browser build/docs

# pfl's dependencies contradict ours, so it has a venv of its own; without it the benchmark says so and goes on.
bench: .venv/.ready
	@test -d .venv-pfl || { $(PYTHON) -m venv .venv-pfl && .venv-pfl/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 safetensors 'pfl[pytorch]==0.6.0'; } || rm -rf .venv-pfl
	$(BIN)/python simulations/bench/bench.py $$(test -d .venv-pfl && echo --pfl-python .venv-pfl/bin/python)

# Five minutes of one GPU, which .venv's torch has to know: torch from PyTorch's own index for CUDA. The equality with the CPU is checked.
bench-gpu: .venv/.ready
	$(BIN)/python simulations/bench/gpu.py

# Rounds between real processes, with nginx, beside Flower alone. Run it while the machine does nothing else.
bench-deploy: .venv/.ready
	PATH="$$PATH:/usr/sbin" $(BIN)/python simulations/bench/deploy.py

# The real helm, with which the tests lint and render the chart.
.helm/helm:
	$(PYTHON) deploy/helm/get_helm.py .helm

# Two nodes of Ray in networks of their own, which only root may make.
bench-cluster: .venv/.ready
	PATH="$$PATH:/usr/sbin" $(BIN)/python simulations/bench/cluster.py

# All wheels that a coordinator or a site needs, with their hashes, for machines without a network: see deploy/README.md
wheelhouse: .venv/.ready
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check -c constraints.txt -w wheelhouse '.[flower,privacy]'
	$(BIN)/python deploy/wheelhouse.py wheelhouse

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 1) and "fedtl needs Python 3.11.1 or newer; say which: make PYTHON=python3.11")'
	@echo "Setting up .venv: a few minutes the first time"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile torch==2.13.0
	@echo "torch is here; now the rest"
	@# uv installs the same versions in a tenth of pip's time. It does not read pip's settings, such as a mirror: where it fails, pip does it.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt uv
	UV_SYSTEM_CERTS=1 UV_HTTP_RETRIES=1 $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[all,dev]' \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[all,dev]'
	@# pip would compile on one core, and what is hardly imported too. A template that is not Python fails here, as it does in pip.
	@$(BIN)/python -m compileall -qq -j 0 -x '/(tests|testing|ray|pip|mypyc?|_inductor|networkx|fontTools|transformers/models|pydicom/sr|sympy/physics|debugpy|setuptools|Crypto|accelerate|lexers)/' .venv/lib fedtl || true
	@touch $@
