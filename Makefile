# Two commands: `make demo` and `make test`. Both set up .venv first; nothing else needs installing by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED := 0
export RAY_AUTH_MODE := token

.PHONY: demo demo-mots test test-fast lint format setup constraints clean

demo: setup
	$(BIN)/python -m jobs.train_bdd

demo-mots: setup
	$(BIN)/python -m jobs.train_kitti_mots

test: test-fast lint
	$(BIN)/python -m pytest -m "slow or gpu or cluster or browser"

# No Ray and no browser: in two processes, each with one thread, since two would wait for each other.
test-fast: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu and not cluster and not browser"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/.installed

# uv resolves and installs in seconds; the constraints file pins every version and names no host.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[dev]'
	touch $@

# After changing a dependency in pyproject.toml.
constraints:
	$(BIN)/uv pip compile --quiet --python-version 3.11 --no-emit-index-url --no-header --no-annotate \
	  --all-extras --upgrade pyproject.toml -o constraints.txt

clean:
	rm -rf $(VENV)
