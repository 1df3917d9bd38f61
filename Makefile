# `make demo` and `make test` do all of their own set-up; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROFILE ?= development

.DEFAULT_GOAL := help
.PHONY: help setup setup-run wordnet demo test test-fast recipes test-faults test-crash test-engine-crash rollout-false-alarms rollout-crash rollout-regressions rollout-enrichment experiment-drill feedback-drill test-copy test-access llm test-llm observe-check alerts-check bench-pairs bench-guards bench-interleaving bench-search-cost bench-telemetry bench-feedback bench-speed bench-peers bench-overload bench-engine bench-rollout bench-index bench-quality bench-rerank bench-hops judge-drill plan-check soak lint format protos protos-check docs up down status images images-base images-check images-pin sbom requirements audit-packages compose-up compose-down k8s-check clean

help: ## Lists what can be made.
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-21s %s\n", $$1, $$2}'

setup: ## Makes .venv with everything, models and WordNet.
	@$(PYTHON) tools/bootstrap.py dev

setup-run:
	@$(PYTHON) tools/bootstrap.py run

wordnet: setup ## Puts WordNet in place, without root; part of setup.
	@$(BIN)/python tools/fetch_wordnet.py

demo: setup-run ## Indexes Python's documentation and answers questions, stage by stage.
	@$(BIN)/python -m demo

# Two files of tests at a time. The seed makes both workers name their tests alike: names hold sets.
test: setup ## Runs all tests.
	@PYTHONHASHSEED=0 $(BIN)/python -m pytest -q -n 2 --dist loadfile

test-fast: setup ## Runs the tests that start no processes.
	@$(BIN)/python -m pytest -q tests/unit tests/contract

recipes: setup ## Applies the recipes "add a flag" and "add a stage" to scratch copies, counts files, runs lint and tests on them.
	@$(BIN)/python -m pytest -q tests/recipes

test-faults: setup ## Breaks everything that can break, one thing at a time; build/faults.json.
	@$(BIN)/python -m drills.faults

test-crash: setup ## Kills what builds and switches indexes, at random moments; build/crash.json.
	@$(BIN)/python -m drills.crash

test-engine-crash: setup ## Kills the embedded engine, fills its disk, spoils its log; build/engine-crash.json.
	@$(BIN)/python -m drills.engine_crash

test-copy: setup ## Copies 100,000 passages from engine to engine and back, under load; build/copying.json.
	@$(BIN)/python -m drills.copying

llm: setup ## Fetches a small language model (127 MB) and serves it, OpenAI-compatible, until Ctrl-C: PORT=8090.
	@$(BIN)/python tools/fetch_llm.py
	@$(BIN)/python -m deploy.local.llm --port $(or $(PORT),8090)

test-llm: setup ## Asks a real small language model through the reasoner, hostile passages included; build/answers.json.
	@$(BIN)/python -m drills.answers

test-access: setup ## Tries every RPC as every caller on a secured stack, forges reports, rotates certificates; build/access.json.
	@$(BIN)/python -m drills.access

observe-check: setup ## Shows that operators see what happens: metrics, traces, logs, rules, dashboards; build/observe.json.
	@$(BIN)/python -m drills.observe

bench-pairs: setup ## Compares searches with those of an earlier commit, in pairs: COMMIT=...; build/bench/pairs.json.
	@$(BIN)/python -m bench.pairs $(COMMIT)

bench-search-cost: setup ## Measures processor time of a search by process, over Qdrant's protocol: COMMIT=... compares; build/bench/search_cost.json.
	@$(BIN)/python -m bench.searchcost $(COMMIT)

bench-guards: setup ## Measures what identity, policies, quotas and the audit log cost, in pairs; build/bench/guards.json.
	@$(BIN)/python -m bench.guards

bench-interleaving: setup ## Measures what an answer of two arms costs over the slower one, on a collection in BEIR's layout; build/bench/interleaving.json.
	@$(BIN)/python -m bench.interleaving $(DATA)/cranfield

bench-feedback: setup ## Measures what feedback costs a search, in pairs; build/bench/feedback.json.
	@$(BIN)/python -m bench.feedback

bench-telemetry: setup ## Measures what metrics and traces cost, in pairs; build/bench/telemetry.json.
	@$(BIN)/python -m bench.telemetry

alerts-check: setup ## Checks alert rules by their tests, and the queries of dashboards and runbook, with promtool.
	@$(BIN)/python tools/alerts_check.py

rollout-regressions: setup ## Lets regressions loose on a rollout, and kills it in every way; build/rollout.json, a review.
	@$(BIN)/python -m drills.rollout_regressions

rollout-enrichment: setup ## Takes enrichment from nobody to everybody as the runbook says, after a regression; build/rollout-enrichment.json.
	@$(BIN)/python -m drills.rollout_enrichment

experiment-drill: setup ## Lets simulated people compare rankings on the real stack, in BEIR folders: DATA=FOLDER; build/experiments.json.
	@$(BIN)/python -m drills.experiments --data $(DATA)

rollout-false-alarms: setup ## Simulates ramps that change nothing, and some that do; build/rollout-false-alarms.json.
	@$(BIN)/python -m drills.rollout_false_alarms

feedback-drill: setup ## Has 10,000 events a second recorded while the service and its database are killed; tries made-up ones; build/feedback.json.
	@$(BIN)/python -m drills.feedback

rollout-crash: setup ## Kills the rollout service 50 times during ramps; build/rollout-crash.json.
	@$(BIN)/python -m drills.rollout_crash

bench-speed: setup ## Measures the model stages against the raw backend; build/bench/speed.json.
	@$(BIN)/python -m bench.speed

bench-peers: setup ## Measures them against other servers, each installed in a folder of its own.
	@$(BIN)/python -m bench.speed.peers

bench-overload: setup ## Offers more load than there is capacity; build/bench/.
	@$(BIN)/python -m bench.overload

DATA ?= ../shared/data/ir
bench-quality: setup ## Measures how good answers are, in BEIR folders: DATA=FOLDER; build/bench/quality.json.
	@$(BIN)/python -m bench.quality $(DATA)

bench-rerank: setup ## Measures what methods of reranking gain and cost, in BEIR folders: DATA=FOLDER; build/bench/rerank.json.
	@$(BIN)/python -m bench.rerank $(DATA)

bench-hops: setup ## Measures what hops gain and cost, in BEIR folders: DATA=FOLDER; build/bench/hops.json.
	@$(BIN)/python -m bench.hops $(DATA)
	@$(BIN)/python -m bench.hops.size

judge-drill: setup ## Lets a small language model judge what people judged, in a BEIR folder: DATA=FOLDER; build/judge.json.
	@$(BIN)/python -m bench.judge $(DATA)/scifact

bench-engine: setup ## Measures the embedded engine against an earlier commit's, and at a million passages: COMMIT=...; build/bench/engine.json.
	@$(BIN)/python -m bench.engine $(COMMIT)

bench-rollout: setup ## Measures what rolling features out costs the gateway; build/bench/rollout.json.
	@$(BIN)/python -m bench.rollout

bench-index: setup ## Measures `sluice index`: rate against the raw backend, memory; build/bench/index.json.
	@$(BIN)/python -m bench.index

plan-check: setup ## Compares `sluice plan` with the stack on this machine, about 11 minutes; build/plan.json.
	@$(BIN)/python -m bench.plan

soak: setup ## Asks the embedder 100,000 times and watches its memory.
	@$(BIN)/python -m bench.speed.soak

lint: setup ## Checks style, types, import contracts, limits, words, protos and generated files.
	@$(BIN)/ruff check .
	@$(BIN)/ruff check --preview --select PLW1514 . # an encoding for every file that is opened
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/buf lint
	@$(BIN)/python tools/settings_table.py --check
	@$(BIN)/python tools/metrics_table.py --check
	@$(BIN)/python -m drills.access.table --check
	@$(BIN)/python tools/prometheus_rule.py --check
	@$(BIN)/python tools/adr_index.py --check
	@$(BIN)/python tools/house_rules.py --check
	@$(BIN)/python tools/packages/requirements.py --check

format: setup ## Formats the code.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

protos: setup ## Regenerates the stubs in protos/gen.
	@PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python tools/protos.py

protos-check: setup ## Fails if the stubs are not those of the protos, or break their callers.
	@PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python tools/protos.py --check

docs: setup ## Regenerates dashboards and tables: settings, metrics, and speed and quality where they were measured.
	@$(BIN)/python tools/settings_table.py
	@$(BIN)/python tools/metrics_table.py
	@$(BIN)/python -m drills.access.table
	@$(BIN)/python -m deploy.grafana
	@$(BIN)/python tools/prometheus_rule.py
	@$(BIN)/python tools/bench_tables.py
	@$(BIN)/python tools/adr_index.py

up: setup-run ## Starts all services and leaves them running; PROFILE=development|staging|...
	@$(BIN)/python -m deploy.local up --profile $(PROFILE)

down: ## Stops what `make up` started.
	@$(BIN)/python -m deploy.local down

status: ## Shows what `make up` started.
	@$(BIN)/python -m deploy.local status

images: setup ## Builds an image of every stage, with docker, podman or buildah; see deploy/docker/README.md.
	@$(BIN)/python -m deploy.docker build $(SERVICES)

images-base: setup ## Makes a base image from Debian's packages, where no registry of images can be reached; root.
	@$(BIN)/python -m deploy.docker base

images-check: setup ## Starts every image, asks for its health, looks for what should not be there; build/images.json.
	@$(BIN)/python -m deploy.docker check $(SERVICES)

images-pin: setup ## Writes digests of the images of others into the files that name them; needs their registries.
	@$(BIN)/python -m deploy.docker pin

sbom: setup ## Brings the list of what each image holds, in CycloneDX, to build/sbom.
	@$(BIN)/python -m deploy.docker contents $(SERVICES)

requirements: setup ## Locks the packages of images by hash: deploy/docker/requirements; FILES="gateway torch".
	@$(BIN)/python tools/packages/requirements.py $(FILES)

audit-packages: setup ## Looks the packages of images up in a database of vulnerabilities, where one can be reached.
	@$(BIN)/python tools/packages/audit_packages.py

COMPOSE ?= docker compose
COMPOSE_FILES := --file deploy/docker/compose.yaml --file build/compose/stages.yaml
compose-up: images ## Starts the whole stack with Qdrant, Prometheus, Grafana and Jaeger: COMPOSE="podman compose".
	@$(BIN)/python -m deploy.docker.compose
	@$(COMPOSE) $(COMPOSE_FILES) up --detach

compose-down: ## Stops it; what Qdrant and Prometheus keep stays.
	@$(COMPOSE) $(COMPOSE_FILES) down

k8s-check: setup ## Renders every overlay with every component and checks what comes out; build/k8s.json.
	@$(BIN)/python -m drills.k8s

clean: ## Removes what was built; .venv and caches outside the checkout stay.
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
