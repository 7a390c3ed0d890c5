# The one list of developer commands; CI calls these and nothing else.
PYTHON ?= python3
BIN := .venv/bin
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

.PHONY: help run setup test test-slow test-django lint fmt check bench clean

help:  ## List the commands
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

run: .venv/runtime  ## Serve a demo on http://127.0.0.1:$$PORT (8000): database, tables and tickets included
	@exec $(BIN)/python manage.py serve --demo

setup: .venv/development  ## Install what tests and lint need, too

test: .venv/development  ## Run the suite on a real PostgreSQL
	@$(BIN)/python -m pytest -m "not slow"

test-slow: .venv/development  ## Run the proofs that take their time: a storm, a drill, a million forged codes
	@$(BIN)/python -m pytest -m slow

test-django: .venv/development  ## Run Django's own tests of backends on ours and on Django's
	@$(BIN)/python -m tests.django_suite

lint: .venv/development  ## Check style, types, layers and migrations
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python manage.py makemigrations --check --dry-run
	@SECRET_KEY=$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(50))') \
	 ALLOWED_HOSTS=tickets.example.org $(BIN)/python manage.py check --deploy --fail-level WARNING

fmt: .venv/development  ## Format the code and mend what can be mended
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

check: lint test test-slow test-django  ## What CI runs

bench: .venv/development  ## Measure the scan lane beside other ways to judge scans; needs wrk
	@$(BIN)/python -m bench.scan

clean:  ## Remove the environment and caches; var/ with the data stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	 || { echo "qrsite needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 run" >&2; exit 1; }
	@$(PYTHON) -m venv .venv \
	 || { rm -rf .venv; echo "$(PYTHON) can't make a venv: install it (Debian: python3-venv)" >&2; exit 1; }

.venv/runtime: requirements.txt | .venv/bin/python
	@echo "Installing into .venv …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/development: requirements.txt requirements-dev.txt | .venv/bin/python
	@echo "Installing into .venv …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ .venv/runtime
