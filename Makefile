# Works with GNU Make 3.81 (macOS) and later. Everything lives in .venv, and what the tests in Node need in
# tests/node/node_modules; nothing is installed elsewhere.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run cluster test test-long install node-modules check fix bench bench-peers bench-scale bench-ledger soak docs oracle vendor cover lock dist sbom docs-site clean FORCE

# Made by the first target that needs it: the newest of these that works, or `make install PYTHON=/path/to/python3`.
PYTHONS := python3.14 python3.13 python3.12 python3.11 python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo 'ARGS passes more: make run ARGS="--port 9000", make test ARGS="-k stream"'

# Extras of pyproject.toml, each with a file of its own in .locks: make install EXTRAS=otel
EXTRAS ?=

run: .venv/.run-stamp $(EXTRAS:%=.venv/.%-stamp) ## serve on http://127.0.0.1:8080 (without a Cohere key: from the embedded emulator)
	@if [ -z "$$COHERE_API_KEY$$CO_API_KEY" ] && ! grep -qs '^ *cohere_api_key' gateway.toml; then set -- --demo; fi; exec $(BIN)/cohere-gateway serve "$$@" $(ARGS)

cluster: .venv/.run-stamp ## three replicas over PostgreSQL and Redis on http://127.0.0.1:8081 to 8083
	@exec $(BIN)/python tests/bench/cluster.py $(ARGS)

# Five workers take tests from each other until none is left: a test waits more than it computes. ARGS=-n0 runs them one after the other.
# With bytecode in caches, whatever the environment says: the tests start a hundred processes, and each would compile all.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses=6 --dist=worksteal
test: .venv/.dev-stamp node-modules ## run the whole test suite, six tests at a time
	$(PYTEST) $(ARGS)

test-long: .venv/.dev-stamp node-modules ## the same with four times as many examples of each property
	GATEWAY_TEST_LONG=1 $(PYTEST) $(ARGS)

install: .venv/.run-stamp $(EXTRAS:%=.venv/.%-stamp) ## .venv with the locked versions and the command (EXTRAS=otel: with OpenTelemetry)
	@echo 'Ready: $(BIN)/cohere-gateway --help'

node-modules: tests/node/node_modules/.stamp ## the OpenAI SDK for Node, whose tests are skipped without it

check: .venv/.dev-stamp node-modules ## format check, lint, types; changes nothing
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	@if [ -x tests/node/node_modules/.bin/tsc ]; then node tests/node/node_modules/.bin/tsc -p tests/node/console.tsconfig.json; else echo 'without Node the types of the console are not checked'; fi

fix: .venv/.dev-stamp ## apply formatting and the lint's safe repairs
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

bench: .venv/.dev-stamp ## run the benchmarks
	$(BIN)/python tests/bench/bench.py $(ARGS)

bench-peers: .venv/.dev-stamp ## measure this gateway beside others, into docs/benchmarks.md (Linux)
	$(BIN)/python tests/bench/peers.py $(ARGS)

bench-scale: .venv/.dev-stamp ## measure latency, many streams and connections, and two workers, into docs/benchmarks.md (Linux)
	$(BIN)/python tests/bench/scale.py $(ARGS)

bench-ledger: .venv/.dev-stamp ## the ledger with five million rows on SQLite and on PostgreSQL
	$(BIN)/python tests/bench/ledger.py $(ARGS)

bench-attacks: .venv/.dev-stamp ## what a hundred callers notice while others attack, for two servers (Linux)
	$(BIN)/python tests/bench/under_attack.py $(ARGS)

soak: .venv/.dev-stamp ## a week in five minutes: everything on, services and workers that fail; nothing may be left over, or lost
	$(BIN)/python tests/bench/soak.py $(ARGS)

docs: .venv/.dev-stamp ## write the generated tables into the documents
	$(BIN)/python tests/support/docs.py $(ARGS)

oracle: .venv/.dev-stamp ## make tests/oracle/ anew from the vendors' documents in ../shared/reference
	PYTHONPATH=tests $(BIN)/python -m support.oracle_generator

vendor: .venv/.dev-stamp node-modules ## write what the console is made of anew, out of npm's packages
	PYTHONPATH=tests $(BIN)/python -m support.console_vendor

cover: .venv/.dev-stamp node-modules ## branch coverage of the whole suite, what runs in processes included
	$(PYTEST) $(ARGS) --cov

# Pins stay where they are as long as pyproject.toml allows; `make lock ARGS=--upgrade` moves them.
LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url
lock: ## lock the versions in pyproject.toml again (ARGS=--upgrade: to the newest)
	@command -v uv >/dev/null || { echo 'make lock needs uv: brew install uv, or pipx install uv' >&2; exit 1; }
	$(LOCK) $(ARGS) --output-file .locks/run.txt pyproject.toml
	$(LOCK) $(ARGS) --output-file .locks/otel.txt --constraint .locks/run.txt --extra otel pyproject.toml
	$(LOCK) $(ARGS) --output-file .locks/dev.txt --constraint .locks/otel.txt --extra otel --group dev pyproject.toml
	$(LOCK) $(ARGS) --output-file .locks/docs.txt --group docs
	$(LOCK) $(ARGS) --output-file .locks/build.txt --group build
	@git --no-pager diff --no-color -U0 -- .locks | awk -f .locks/changes.awk

# mkdocs-material, in an environment of its own: what only this needs is in nobody's way.
docs-site: .venv/.docs-stamp ## the documents as a site in site/, without requests to anybody else
	.venv/docs/bin/python tests/support/docs_site.py $(ARGS)

.venv/.docs-stamp: .venv/pyvenv.cfg .locks/docs.txt
	@echo 'Installing .locks/docs.txt into .venv/docs ...'
	@$(BIN)/python -m venv --clear .venv/docs
	@.venv/docs/bin/python -m pip --disable-pip-version-check --no-input install --quiet --no-deps --require-hashes -r .locks/docs.txt
	@touch $@

dist: .venv/.dev-stamp ## build the wheel and the sdist into dist/, the same bytes from the same commit
	$(BIN)/python tests/support/distribution.py $(ARGS)

# CycloneDX, of what `make install` installs, by name, version and hashes.
sbom: ## write dist/sbom.cdx.json, the software bill of materials of .locks/run.txt
	@command -v uv >/dev/null || { echo 'make sbom needs uv: brew install uv, or pipx install uv' >&2; exit 1; }
	@mkdir -p dist
	uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements --output-reproducible --pyproject pyproject.toml \
		--mc-type application --validate --of JSON --output-file dist/sbom.cdx.json .locks/run.txt

clean: ## remove .venv and whatever else make created
	rm -rf .venv tests/node/node_modules build dist site *.egg-info htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The locks are complete, so pip resolves nothing (--no-deps); `pip check` complains should that ever be untrue.
# dev.txt contains run.txt, and so brings both stamps up to date.
.venv/.run-stamp: .venv/pyvenv.cfg pyproject.toml .locks/run.txt .locks/build.txt
	@$(call install,run) && touch $@

.venv/.dev-stamp: .venv/pyvenv.cfg pyproject.toml .locks/dev.txt .locks/build.txt
	@$(call install,dev) && touch .venv/.run-stamp $@

.venv/.otel-stamp: .venv/.run-stamp .locks/otel.txt
	@$(call install,otel) && touch $@

install = echo 'Installing .locks/$(1).txt into .venv ...' \
	&& $(PIP) install --quiet --no-deps --require-hashes -r .locks/$(1).txt -r .locks/build.txt \
	&& $(PIP) install --quiet --no-deps --no-build-isolation --editable . \
	&& $(PIP) check

# Not everybody has npm, or reaches a registry: that is said and goes on, and the next run tries again.
NPM_CI = npm ci --prefix tests/node --ignore-scripts --prefer-offline --no-audit --no-fund --loglevel=error \
	--fetch-retries=1 --fetch-retry-mintimeout=1000 --fetch-timeout=30000
tests/node/node_modules/.stamp: tests/node/package.json tests/node/package-lock.json
	@if ! command -v npm >/dev/null; then \
		echo 'npm is not installed: the tests of the OpenAI SDK for Node are skipped'; \
	elif echo 'Installing tests/node/package-lock.json into tests/node/node_modules ...' && $(NPM_CI) >/dev/null; then \
		touch $@; \
	else \
		echo 'npm installed nothing: the tests of the OpenAI SDK for Node are skipped' >&2; \
	fi

# .venv is made anew when its Python has gone, and when PYTHON names another one.
WHICH := import sys; print(sys.base_prefix, sys.version)
HAVE := $(shell $(BIN)/python -c '$(WHICH)' 2>/dev/null)
WANT := $(if $(PYTHON),$(shell $(PYTHON) -c '$(WHICH)' 2>/dev/null),$(HAVE))
ifneq ($(or $(WANT),none),$(HAVE))
.venv/pyvenv.cfg: FORCE
endif

# Candidates are tried by running them: a pyenv shim may exist and fail, and Debian splits ensurepip off.
.venv/pyvenv.cfg:
	@for python in $(or $(PYTHON),$(PYTHONS)); do \
		"$$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		"$$python" -c 'import ensurepip' 2>/dev/null || { bare="$$bare $$python"; continue; }; \
		echo "Creating .venv with $$("$$python" --version)"; \
		exec "$$python" -m venv --clear .venv; \
	done; \
	if [ -n "$$bare" ]; then \
		echo "Found$$bare, but without ensurepip, which makes virtual environments." >&2; \
		echo "Debian, Ubuntu: apt install python3-venv" >&2; \
	else \
		echo "cohere-gateway needs Python 3.11 or newer; tried: $(or $(PYTHON),$(PYTHONS))" >&2; \
		echo "Debian, Ubuntu: apt install python3 python3-venv" >&2; \
		echo "macOS: brew install python, or the installer from python.org" >&2; \
		echo "Elsewhere on this machine: make PYTHON=/path/to/python3" >&2; \
	fi; \
	exit 1
