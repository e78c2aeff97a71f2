# Every task of this repository. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
VENV := .venv
PYTHON := $(VENV)/bin/python
PYTEST := $(PYTHON) -m pytest
# Nothing is fetched at run time: models and data come from packages or are generated.
export HF_HUB_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export PYTHONHASHSEED := 0

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: setup
setup: ## Create .venv from the locked requirements (about 6 minutes the first time, then seconds)
	@tools/setup.sh

.PHONY: demo
demo: setup ## Train, evaluate and publish a headline classifier, end to end, on this machine
	@$(PYTHON) tools/demo.py

.PHONY: demo-product-copy
demo-product-copy: setup ## The second example: product facts to a description
	@$(PYTHON) tools/demo.py --example 02

.PHONY: test
test: setup ## Set up, run the fast tests and one journey from data to an answer (about 7 minutes; no Go, no cluster)
	@tools/test.sh quick

.PHONY: test-baseline
test-baseline: setup ## What continuous integration runs besides: the core on real API servers, and one journey in pods (about 20 minutes)
	@tools/test.sh baseline

.PHONY: test-all
test-all: setup ## All tests (over an hour on two cores; trains small models; starts a real Kubernetes where it can)
	@tools/test.sh all

.PHONY: test-cluster
test-cluster: setup ## Of these, what needs a real API server or node (Linux, root, Go)
	@tools/test.sh cluster

.PHONY: test-fast
test-fast: setup ## Unit tests without what needs torch or takes a second: 150 s of CPU, under two minutes on two cores
	@$(PYTEST) tests/unit -m "not slow" --numprocesses auto --dist worksteal -q

.PHONY: properties
properties: setup ## Look for new counterexamples of all properties (EXAMPLES=1000 of each; about 15 minutes)
	@FINETUNE_PROPERTY_EXAMPLES=$(or $(EXAMPLES),1000) $(PYTEST) --numprocesses 2 --dist worksteal \
		$$(grep -rl "from hypothesis" tests --include='test_*.py')

.PHONY: alert-tests
alert-tests: setup ## Unit tests of the chart's alerts (builds promtool the first time, about 2 minutes)
	@$(PYTEST) tests/chart/test_alerts.py

.PHONY: alert-faults
alert-faults: setup ## Every alert fired by a real fault on a real API server, as a table (about 15 minutes; SPEED=1: hours)
	@PYTHONPATH=tools:tests:. $(PYTHON) -m benchmarks.alert_faults $(if $(SPEED),--speed $(SPEED))

.PHONY: families
families: setup ## Every model family through the whole chain, as a table (about 20 minutes)
	@PYTHONPATH=tools:tests:. $(PYTHON) benchmarks/model_families.py $(FAMILIES)

.PHONY: walk
walk: setup ## A newcomer's walk over ten data sets, with every line printed (about 40 minutes; SETS="150", KEEP=DIR, RECORD=1)
	@$(PYTHON) benchmarks/first_ten_minutes.py $(SETS) $(if $(KEEP),--keep $(KEEP)) $(if $(RECORD),--record)

.PHONY: data-quality
data-quality: setup ## What the data stage finds in data with planted faults, as tables (about a minute; TABLES=published: seconds)
	@PYTHONPATH=operator:trainer_image:tests:. $(PYTHON) benchmarks/data_quality.py $(TABLES)

.PHONY: evidence
evidence: setup ## How often intervals hold and verdicts are wrong, simulated, as tables (about 30 minutes; TABLES="gains verdicts")
	@PYTHONPATH=operator:trainer_image:tools:. $(PYTHON) -m benchmarks.evidence $(TABLES)

.PHONY: sweeps
sweeps: setup ## How a sweep stops and chooses, beside Optuna, simulated, as tables (about 2 minutes of one core; TABLES="savings")
	@PYTHONPATH=operator:trainer_image:tools:. $(PYTHON) -m benchmarks.sweep_evidence $(TABLES)

.PHONY: rollouts
rollouts: setup ## How often a canary is rolled back wrongly, and how soon harm is found, simulated, as tables (about 2 minutes of one core; TABLES="rates")
	@PYTHONPATH=operator:trainer_image:tools:. $(PYTHON) -m benchmarks.rollouts $(TABLES)

.PHONY: loop-evidence
loop-evidence: setup ## False alarms in 100 simulated years, how soon drift is found, live quality's intervals and wrong calls, how sealed test rows wear, and what a look costs, as tables (TABLES="quiet delays quality endpoints sealing cost", SCALE=0.02 for a glance)
	@PYTHONPATH=operator:trainer_image:tools:. $(PYTHON) -m benchmarks.loop_evidence $(TABLES) $(if $(SCALE),--scale $(SCALE))

.PHONY: probe-evidence
probe-evidence: setup ## Models done harm on purpose, and who is caught, as a table (about 2 hours on two cores; goes on after a stop)
	@PYTHONPATH=operator:trainer_image:tools:. $(PYTHON) -m benchmarks.probe_evidence $(CASES) $(if $(SEEDS),--seeds $(SEEDS))

.PHONY: damaged-data
damaged-data: setup ## Prepare 10,000 damaged files of examples: no traceback, no hang (about 10 minutes)
	@FINETUNE_MUTATED_INPUTS=10000 $(PYTEST) tests/trainer/test_mutated_input.py --numprocesses 2

.PHONY: faults
faults: setup ## Kill, stop, starve and cut off running jobs, as a table (FAULTS="row row", SEEDS=3, MORE=1, RECORD=1; many hours for all)
	@PYTHONPATH=tools:tests:. $(PYTHON) -m benchmarks.faults $(FAULTS) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(MORE),--more) $(if $(RECORD),--record)

.PHONY: hostile
hostile: setup ## 20,000 jobs that mean to break out, and as many harmless ones, as a table (minutes; COUNT=1000, SEED=2)
	@PYTHONPATH=operator:trainer_image:tests $(PYTHON) -m hostile.trial --count $(or $(COUNT),20000) --seed $(or $(SEED),1)

.PHONY: deaths
deaths: setup ## 1,000 deaths of the operator over at least 100 jobs on a real API server (minutes)
	@FINETUNE_DEATHS=1000 $(PYTEST) tests/control_plane/test_crashes.py -k many_deaths -rP

.PHONY: upgrade-drill
upgrade-drill: setup ## Endpoints under load get an engine that answers wrongly, one that does not start, and a good one (about 8 minutes)
	@FINETUNE_DRILLS=1 $(PYTEST) tests/e2e/test_upgrade.py -s

.PHONY: pages
pages: setup ## The pages for people in a real Chromium, if there is one (AXE=axe.min.js: accessibility check)
	@AXE=$(AXE) $(PYTEST) tests/pages -s

.PHONY: serving-bench
serving-bench: setup ## What the serving front costs beside its engine, what capture adds, requests over switches and drains, and hostile clients (about 9 minutes; PARTS="overhead switches")
	@PYTHONPATH=operator:trainer_image:. $(PYTHON) -m benchmarks.serving $(PARTS)

.PHONY: vllm-test
vllm-test: setup ## Install vLLM beside the project (6 GB) and compare its answers with the evaluation's
	@FINETUNE_VLLM_PYTHON="$$($(PYTHON) tools/locked_environment.py vllm)" $(PYTEST) tests/serving -s --ignore tests/serving/test_endpoint.py

.PHONY: endpoint-vllm
endpoint-vllm: setup ## The life of an endpoint on a real vLLM, and 200 adapters on one (6 GB; about 20 minutes; ADAPTERS=50, RECORD=1)
	@FINETUNE_VLLM_PYTHON="$$($(PYTHON) tools/locked_environment.py vllm)" $(PYTEST) tests/serving/test_endpoint.py -s
	@export FINETUNE_VLLM_PYTHON="$$($(PYTHON) tools/locked_environment.py vllm)"; \
		PYTHONPATH=operator:trainer_image:tools:tests:. $(PYTHON) -m benchmarks.serving.adapters \
		$(if $(ADAPTERS),--adapters $(ADAPTERS)) $(if $(RECORD),--record)

.PHONY: garak-test
garak-test: setup ## Install vLLM and garak beside the project (11 GB) and have garak attack what vLLM serves
	@FINETUNE_VLLM_PYTHON="$$($(PYTHON) tools/locked_environment.py vllm)" \
		FINETUNE_GARAK_PYTHON="$$($(PYTHON) tools/locked_environment.py garak)" $(PYTEST) tests/serving/test_red_team.py -s

.PHONY: tracking
tracking: setup ## Install MLflow and wandb beside the project (0.8 GB), tell them of runs and read those back
	@FINETUNE_TRACKERS_PYTHON="$$($(PYTHON) tools/locked_environment.py trackers)" $(PYTEST) tests/tracking

.PHONY: verify
verify: setup ## Generated files, lint, format, types, imports, spelling, prose, budgets of code
	@$(PYTHON) tools/generate.py --check
	@$(PYTHON) tools/chart_readme.py --check
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/mypy tools benchmarks
	@$(VENV)/bin/lint-imports
	@$(VENV)/bin/codespell
	@$(PYTHON) tools/prose.py
	@$(PYTHON) tools/budgets.py
	@tools/check_repository.sh

.PHONY: generate
generate: setup ## Write the CRD, its chart copy and the reference pages from the models
	@$(PYTHON) tools/generate.py

.PHONY: format
format: setup ## Format and fix what can be fixed
	@$(VENV)/bin/ruff check --fix -q . || true
	@$(VENV)/bin/ruff format .

.PHONY: lock
lock: setup ## Resolve the requirements anew (hashes, Python 3.11-3.13)
	@tools/lock.sh

.PHONY: lock-cuda12
lock-cuda12: setup ## Lock the trainer with torch for CUDA 12 from INDEX=<address> (BUILD=cu126)
	@tools/lock_cuda12.sh "$(INDEX)" "$(or $(BUILD),cu126)"

.PHONY: bench
bench: setup ## Run all benchmarks (see benchmarks/README.md; hours on two cores)
	@$(PYTHON) benchmarks/trainer/step_time.py
	@$(PYTHON) benchmarks/trainer/defaults.py
	@$(PYTHON) benchmarks/quality/run.py
	@$(PYTHON) benchmarks/control_plane/run.py

.PHONY: bench-gpu
bench-gpu: setup ## The GPU table, random weights, at most ten minutes a line: tokens/s, utilisation, peak memory
	@$(PYTHON) benchmarks/gpu/run.py

.PHONY: manifests
manifests: setup ## Write plain manifests for kubectl apply -f to build/
	@$(PYTHON) tools/manifests.py

.PHONY: cluster-demo
cluster-demo: setup ## The headline example on the dev cluster, or on the current context with USE_EXISTING_CLUSTER=1
	@$(PYTHON) tools/cluster_demo.py

.PHONY: sweep-cluster
sweep-cluster: setup ## A sweep on the dev cluster beside its trials run whole, as a table (DATA=folder of banking77; about half an hour)
	@PYTHONPATH=operator:trainer_image:tools:. $(PYTHON) -m benchmarks.sweep_on_cluster $(if $(DATA),--data $(DATA))

.PHONY: cluster-up cluster-down cluster-status cluster-load
cluster-up: setup ## Build and start a real single-node Kubernetes (Linux, root, Go)
	@PYTHONPATH=tools $(PYTHON) -m devcluster up
cluster-down: ## Stop it and remove what it made
	@PYTHONPATH=tools $(PYTHON) -m devcluster down
cluster-status: ## Say what runs
	@PYTHONPATH=tools $(PYTHON) -m devcluster status
cluster-load: ## Build the images and push them to the cluster's registry
	@PYTHONPATH=tools $(PYTHON) -m devcluster load
