# make demo | make test: each sets up what it needs. See README.md.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m
SOURCES := common serving tracking agents evals load_tests examples benchmarks tests requirements

.DEFAULT_GOAL := help
.PHONY: help setup browser demo test check fix serve eval load ui clean

help: ## say what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-7s %s\n", $$1, $$2}'

setup: ## the environment in .venv, from the lock that fits this machine
	@$(PYTHON) requirements/install.py

browser: ## Chromium, which the tests of the HTML pages need
	@$(PYTHON) requirements/browser.py

demo: setup ## the main job on the real engine: recommendations, a small evaluation, a short load test
	@$(RUN) examples.demo

test: setup browser ## the whole test suite, the real engine included
	@echo "== tests on the simulator" && $(RUN) pytest -n 2 -m "not engine"
	@echo "== tests on the real engine (it starts once: one to two minutes on a CPU)" && $(RUN) pytest -m engine -v

check: setup ## format, lint, types and the fast tests: what to run all day
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/mypy $(SOURCES)
	@$(RUN) pytest -q -n 2 -m "not engine and not slow" --hypothesis-profile=quick

fix: setup ## format and mend what can be mended
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix $(SOURCES)

serve: setup ## an endpoint in the foreground; Ctrl-C ends it
	@$(RUN) serving start

eval: setup ## the example suite on the running endpoint
	@$(RUN) evals run examples/suite.yaml

load: setup ## the example load test on the running endpoint
	@$(RUN) load_tests run examples/load.yaml

ui: setup ## MLflow's pages on loopback, port 5000
	@$(RUN) mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
		--backend-store-uri sqlite:///mlruns/mlflow.db --artifacts-destination mlruns/artifacts

clean: ## remove .venv, caches, runs/ and MLflow's store; models stay in the user's cache
	@if [ -x $(BIN)/python ]; then $(RUN) serving stop; fi
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis runs mlruns/mlflow.db mlruns/artifacts
