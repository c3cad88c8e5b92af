# Two commands matter: `make demo` and `make test`. Each sets everything up first, in .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo check test test-all quick-tests tests all-tests lint openapi forms constraints locks audit sbom clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/aiao demo

# Nearly every test starts processes: what one has compiled, the next can read, even where the environment forbids to keep it.
export PYTHONDONTWRITEBYTECODE :=

# Before a commit: 90 seconds.
check: $(READY)
	+$(BESIDE) lint quick-tests

# Before a push, and in CI: 8 minutes on 2 cores.
test: $(READY)
	+$(BESIDE) lint tests

# Before a release, and in CI with AIAO_CI=all: storms, both brokers, every store, everything on both databases.
test-all: $(READY)
	+$(BESIDE) lint all-tests

BESIDE = $(MAKE) --no-print-directory --jobs 2
PYTEST = $(BIN)/python -m pytest -n auto --dist loadgroup

quick-tests: $(READY)
	$(PYTEST) -m "not slow and not process and not long"

tests: $(READY)
	$(PYTEST) -m "not slow"

all-tests: $(READY)
	$(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): pyproject.toml server/pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[torch,dev]' --editable './server[aws,telemetry]'
	touch $@

# Renew the API's document that is checked in, after a change that breaks no client.
openapi: $(READY)
	$(BIN)/python -c 'import json; from service.app import create_app; from service.settings import Settings; print(json.dumps(create_app(Settings()).openapi(), indent=1))' > docs/openapi.json

# Renew the page of what is read and what is refused, after a change of a reader or a family.
forms: $(READY)
	$(BIN)/python -m tests.support.forms_page

# Renew the exact set of versions from what the ranges in both pyproject.toml allow today.
constraints:
	rm -rf .venv-constraints && $(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/pip install --quiet torch==2.13.0 --editable '.[torch,dev]' --editable './server[aws,telemetry]'
	(echo "# The exact set that make installs; renew it with: make constraints"; \
	 .venv-constraints/bin/pip freeze --exclude-editable | sed 's/+cpu$$//') > constraints.txt
	rm -rf .venv-constraints
	$(MAKE) locks

# Renew what the images install, with hashes, after a change of constraints.txt.
locks:
	rm -rf .venv-tools && $(PYTHON) -m venv .venv-tools
	.venv-tools/bin/pip install --quiet uv
	.venv-tools/bin/python docker/lock.py
	rm -rf .venv-tools

# Look for known flaws in what the images install; asks PyPI's advisories.
audit:
	rm -rf .venv-tools && $(PYTHON) -m venv .venv-tools
	.venv-tools/bin/pip install --quiet pip-audit
	for lock in api worker cuda; do .venv-tools/bin/pip-audit --strict --disable-pip --require-hashes --requirement docker/$$lock.lock || exit 1; done
	rm -rf .venv-tools

# List what the images install, with licenses and hashes, as CycloneDX: sbom/*.json.
sbom:
	rm -rf .venv-tools && $(PYTHON) -m venv .venv-tools
	.venv-tools/bin/pip install --quiet cyclonedx-bom
	mkdir -p sbom
	for lock in api worker cuda torch-cpu; do \
		.venv-tools/bin/cyclonedx-py requirements --output-reproducible --pyproject server/pyproject.toml \
			--output-file sbom/$$lock.json docker/$$lock.lock || exit 1; done
	rm -rf .venv-tools

clean:
	rm -rf .venv .venv-tools build dist sbom server/dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
