# The two commands: `make up` and `make test`. `make help` lists the rest.
STATE ?= var
NAME ?= all
WORKERS ?= 2
.PHONY: installed static help up down status test check bench format lab

help:
	@echo "make up       install what is missing, start the whole suite in $(STATE), print what to do next"
	@echo "make down     stop it; the state is kept"
	@echo "make status   say what runs and how it is"
	@echo "make test     install what the tests need and run all of them"
	@echo "make check    the quick loop: ruff, mypy, import contracts, unit tests without a database or a token"
	@echo "make lab      the site of deploy/site.toml on this machine, each host a network namespace (root)"
	@echo "make bench    run every benchmark but issuance-10m, or one: make bench NAME=ocsp-cached"

up:
	@scripts/prepare run
	@.venv/bin/chancery up --state $(STATE)

down: installed
	@.venv/bin/chancery down --state $(STATE)

status: installed
	@.venv/bin/chancery status --state $(STATE)

installed:
	@test -x .venv/bin/chancery || { echo "nothing is installed here yet"; echo "next: make up"; exit 1; } >&2

test:
	@scripts/prepare test
	@$(MAKE) --no-print-directory static
	@.venv/bin/python -m pytest -q -n $(WORKERS) --dist loadscope --no-loadscope-reorder

check:
	@scripts/prepare test
	@$(MAKE) --no-print-directory static
	@.venv/bin/python -m pytest -q -n $(WORKERS) --dist loadscope tests/unit -m "not postgres and not softhsm"

static:
	@.venv/bin/ruff check src tests bench
	@.venv/bin/ruff format --check src tests bench
	@.venv/bin/mypy
	@.venv/bin/lint-imports

bench:
	@scripts/prepare test
	@.venv/bin/python -m bench $(NAME)

lab:
	@scripts/prepare test
	@.venv/bin/python tests/lab/building.py

format:
	@.venv/bin/ruff check --fix src tests bench
	@.venv/bin/ruff format src tests bench
