# The composition of the tools. It chains them; it computes nothing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first Python that is new enough; another by make PYTHON=...
PYTHON ?= $(shell for name in python3 python3.11 python3.12 python3.13; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && exit; \
	done; echo python3)
VENV := .venv
INSTALLED := $(VENV)/installed.stamp
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help install demo quick test check format matrix matrix-drill chaos pd real real-matrix breakeven replay drill bench bench-peers bench-stats growth soak sizes calibrate fleet contamination aa audit docs lock record engines browser prometheus pipes hosts fuzz schemathesis screenshots

help:  ## Show this help
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Put every tool into .venv/bin

demo: $(INSTALLED)  ## The whole experiment on simulated engines, with a report at the end
	@demo/run.sh

# What a person wrote reaches a recipe as environment, never as text of a command; and make, which
# would expand the dollars in it once more for every recipe, is told to leave it alone.
unexport ALLOW_COMMANDS BUDGET CONFIG DECODE FLOW FULL KEY_FILE LABEL MINUTES MODEL NON_PD ONLY OUT PREFILL PROXY SIMULATED UNTIL UPGRADE URL

quick: export KV_URL = $(value URL)
quick: export KV_MODEL = $(value MODEL)
quick: export KV_KEY_FILE = $(value KEY_FILE)
quick: export KV_SECONDS = $(value BUDGET)
quick: $(INSTALLED)  ## What is a hit worth here, in a minute: make quick URL=... [MODEL=] [KEY_FILE=]
	@quick/run.sh --url "$$KV_URL" $${KV_MODEL:+--model "$$KV_MODEL"} \
	$${KV_KEY_FILE:+--api-key-file "$$KV_KEY_FILE"} $${KV_SECONDS:+--seconds "$$KV_SECONDS"}

test: $(INSTALLED) engines browser prometheus pipes hosts schemathesis  ## Run the tests, those on real engines included
	@pytest -ra

check: $(INSTALLED)  ## Format, lint, types, docs, tests
	ruff format --check .
	ruff check .
	mypy
	python docs/build.py --check
	@$(MAKE) --no-print-directory test

format: $(INSTALLED)  ## Format the code
	ruff format .
	ruff check --fix .

matrix: export KV_MATRIX = $(value CONFIG)
matrix: export KV_ONLY = $(value ONLY)
matrix: export KV_COMMANDS = $(value ALLOW_COMMANDS)
matrix: export KV_UNTIL = $(value UNTIL)

# `make -n matrix` shows the pipelines instead of running them: they can be pasted into bash, where
# this line, without KV_MATRIX, does nothing.
matrix: $(INSTALLED)  ## Run many scenarios, isolated: make matrix CONFIG=x.yaml [ONLY=name] [UNTIL=5%]
	+@if [[ -v KV_MATRIX ]]; then \
	[[ -n $$KV_MATRIX ]] || { echo 'matrix: which? say make matrix CONFIG=x.yaml' >&2; exit 2; }; \
	rules=$$(kvmatrix "$$KV_MATRIX" $${KV_ONLY:+"--only=$$KV_ONLY"} $${KV_COMMANDS:+--allow-commands} $${KV_UNTIL:+"--until=$$KV_UNTIL"}) || exit; \
	MAKEFLAGS="$${MAKEFLAGS%%-- *}" exec kvmatrix "$$KV_MATRIX" $${KV_ONLY:+"--only=$$KV_ONLY"} $${KV_COMMANDS:+--allow-commands} $${KV_UNTIL:+"--until=$$KV_UNTIL"} \
	--progress $(MAKE) --no-print-directory -f - matrix <<<"$$rules"; fi

matrix-drill: $(INSTALLED)  ## Run every shipped matrix; search for capacities (minutes)
	KV_DRILL_FULL=1 pytest -q -s -o timeout=0 tests/kvmatrix/test_configs.py tests/kvmatrix/test_capacity.py

chaos: $(INSTALLED)  ## Kill a matrix at fifty random moments, and the pipe at 27: nothing lost (15 minutes)
	KV_CHAOS_FULL=1 pytest -q -s -o timeout=0 tests/chaos

# Without addresses engines are simulated.
pd: export KV_NON_PD = $(value NON_PD)
pd: export KV_PROXY = $(value PROXY)
pd: export KV_PREFILL = $(value PREFILL)
pd: export KV_DECODE = $(value DECODE)
pd: export KV_MODEL = $(value MODEL)
pd: export KV_FLOW = $(value FLOW)
pd: $(INSTALLED)  ## PD against non-PD: make pd, or NON_PD=URL PROXY=URL PREFILL=URL DECODE=URL MODEL=NAME
	@NON_PD="$$KV_NON_PD" PROXY="$$KV_PROXY" PREFILL="$$KV_PREFILL" DECODE="$$KV_DECODE" \
	MODEL="$$KV_MODEL" FLOW="$$KV_FLOW" demo/pd.sh

real: $(INSTALLED)  ## The experiment on real vLLM and Mooncake, on CPU
	@stack/real.sh

real-matrix: $(INSTALLED)  ## A matrix on real engines; then without isolation (15 minutes)
	@stack/matrix.sh

breakeven: export KV_REPEATS = $(value REPEATS)
breakeven: $(INSTALLED)  ## From which prompt length loading beats computing, on real engines (10 minutes)
	@REPEATS="$$KV_REPEATS" stack/breakeven.sh

drill: export KV_OUT = $(value OUT)
drill: export KV_SIMULATED = $(value SIMULATED)
drill: $(INSTALLED)  ## Kill the store, its owner or the link in the hit round, on real engines (15 minutes) [SIMULATED=1]
	@stack/drill.sh $${KV_SIMULATED:+--simulated} "$${KV_OUT:-drill-out}"

replay: export KV_OUT = $(value OUT)
replay: $(INSTALLED)  ## A piece of a public trace on real engines: predicted and measured (10 minutes)
	@stack/replay.sh "$${KV_OUT:-replay-out}"

bench bench-peers bench-stats growth soak sizes: export KV_LABEL = $(value LABEL)
calibrate: export KV_OUT = $(value OUT)

bench: $(INSTALLED)  ## Measure every goal of the client: make bench [LABEL=two-cores keeps it]
	@python -m bench.goals $${KV_LABEL:+"--label=$$KV_LABEL"}

bench-peers: $(INSTALLED)  ## The same loads with vLLM's bench, SGLang's and others (installs them)
	@bench/install-peers.sh
	@python -m bench.bench_peers $${KV_LABEL:+"--label=$$KV_LABEL"}

bench-stats: export KV_FULL = $(value FULL)
bench-stats: $(INSTALLED)  ## kvstats on up to a million requests, beside jq and DuckDB [FULL=1: ten million; LABEL]
	@[[ -x .venv-peers/duckdb/bin/python ]] || python -m venv .venv-peers/duckdb
	@.venv-peers/duckdb/bin/python -m pip install --quiet --disable-pip-version-check duckdb
	@python -m bench.stats $${KV_FULL:+--full} $${KV_LABEL:+"--label=$$KV_LABEL"}

growth: $(INSTALLED)  ## Cost against streams, rate, prompt length, workers, shards, records (8 minutes) [LABEL]
	@python -m bench.growth $${KV_LABEL:+"--label=$$KV_LABEL"}

soak: export KV_MINUTES = $(value MINUTES)
soak: $(INSTALLED)  ## Does a long run of kvload grow, does its schedule drift? [MINUTES=30] [LABEL]
	@python -m bench.soak --minutes "$${KV_MINUTES:-30}" $${KV_LABEL:+"--label=$$KV_LABEL"}

fuzz: export KV_MINUTES = $(value MINUTES)
fuzz: $(INSTALLED) schemathesis  ## New damaged inputs for every parser, and kvsim against its OpenAPI document [MINUTES=10]
	@python -m tests.fuzz --minutes "$${KV_MINUTES:-10}"

sizes: $(INSTALLED)  ## 10,000 streams, 128k tokens, a million lines, 1 GB, 200 scenarios (10 minutes) [LABEL]
	@python -m bench.sizes $${KV_LABEL:+"--label=$$KV_LABEL"}

calibrate: $(INSTALLED)  ## What kvload alone does on this machine, for kvload --calibration
	@python -m bench.calibrate "$${KV_OUT:-calibration.json}"

# Every machine sends its shard; docs/fleet.md says what each of these is.
FLEET := HOSTS URL URL_B MODEL SCENARIO WORKLOAD PLAN LOAD CLEAR BETWEEN ROUNDS REPEATS LEAD LIMIT KEY_FILE KVLOAD SSH OUT
unexport $(FLEET)
$(foreach name,$(FLEET),$(eval fleet: export KV_$(name) = $$(value $(name))))
fleet: $(INSTALLED)  ## One plan from several machines over ssh: make fleet HOSTS=a,user@b:2222,2/c URL=... [PLAN=] [LOAD=]
	@fleet/run.sh $${KV_HOSTS:+--hosts "$$KV_HOSTS"} $${KV_URL:+--url "$$KV_URL"} $${KV_URL_B:+--url "2=$$KV_URL_B"} \
	$${KV_MODEL:+--model "$$KV_MODEL"} $${KV_SCENARIO:+--scenario "$$KV_SCENARIO"} $${KV_WORKLOAD:+--workload "$$KV_WORKLOAD"} \
	$${KV_PLAN:+--plan "$$KV_PLAN"} $${KV_LOAD:+--load "$$KV_LOAD"} $${KV_CLEAR:+--clear "$$KV_CLEAR"} \
	$${KV_BETWEEN:+--between "$$KV_BETWEEN"} $${KV_ROUNDS:+--rounds "$$KV_ROUNDS"} $${KV_REPEATS:+--repeats "$$KV_REPEATS"} \
	$${KV_LEAD:+--lead "$$KV_LEAD"} $${KV_LIMIT:+--limit "$$KV_LIMIT"} $${KV_KEY_FILE:+--key-file "$$KV_KEY_FILE"} \
	$${KV_KVLOAD:+--kvload "$$KV_KVLOAD"} $${KV_SSH:+--ssh "$$KV_SSH"} $${KV_OUT:+-o "$$KV_OUT"}

contamination: $(INSTALLED)  ## Plant contamination 100 times, run 1,000 clean rounds (minutes)
	KV_CONTAMINATION_FULL=1 pytest -q -s -o timeout=0 tests/test_contamination.py

aa: $(INSTALLED)  ## The same arm twice, 500 times on moving ground; and planted effects (an hour)
	KV_AA_FULL=1 pytest -q -s -o timeout=0 tests/kvreport/test_false_verdicts.py

docs: $(INSTALLED)  ## Write the schemas and the generated blocks of the documentation
	python -m kvschemas schemas
	python -m kvreport.contract schemas
	cd schemas/examples/valid && kvstats --slo ttft=500ms stream.jsonl > round_stats.jsonl
	python docs/build.py

screenshots: $(INSTALLED) browser  ## Pictures of a report at 390 and 1,440 px, into screenshots/
	@docs/screenshots.sh

record: $(INSTALLED)  ## Record the golden cases anew; then read git diff
	KV_RECORD=1 pytest -q tests/test_cases.py
	@git --no-pager diff --stat -- tests/cases

# The real engines live in environments of their own: vLLM and Mooncake, then LMCache and NIXL. Without
# them everything else is tested, and pytest's summary says which tests were skipped and why.
engines:
	@stack/install.sh --with-lmcache --with-nixl || echo 'test: A REAL ENGINE COULD NOT BE INSTALLED (see above): its tests will be skipped' >&2

# The pages are opened in a real browser where there is one, or one can be installed.
browser:
	@tests/debian.sh 'chromium|chromium-browser|google-chrome' chromium fonts-noto-cjk || echo 'test: THE HTML REPORT WILL NOT BE OPENED IN A BROWSER (see above)' >&2

# The dashboards' queries are put to a real Prometheus.
prometheus:
	@tests/debian.sh promtool prometheus || echo 'test: THE DASHBOARDS WILL NOT BE TESTED (see above)' >&2

# Hosts of a fleet that are this machine, and clocks that are stepped.
hosts:
	@for tool in sshd:openssh-server parallel:parallel faketime:faketime; do PATH="$$PATH:/usr/sbin" tests/debian.sh $${tool%:*} $${tool#*:} || echo "test: NOTHING THAT NEEDS $${tool%:*} WILL BE TESTED (see above)" >&2; done

lock: export KV_UPGRADE = $(value UPGRADE)
# Versions and hashes of everything that is installed: review what `make lock` changes like code.
lock: $(INSTALLED)  ## Pin every dependency anew, with hashes [UPGRADE=1]
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@requirements/lock.sh $${KV_UPGRADE:+--upgrade}

audit: $(INSTALLED)  ## Ask the advisory data base about every pinned version (network)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	@pip-audit --strict --require-hashes --disable-pip -r requirements/dev.lock -r requirements/fuzz.lock

# Whether kvsim answers as its OpenAPI document says is asked by a tool with dependencies of its own.
schemathesis:
	@[[ -x .venv-fuzz/bin/st && ! requirements/fuzz.lock -nt .venv-fuzz/bin/st ]] || { $(PYTHON) -m venv --clear .venv-fuzz && .venv-fuzz/bin/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r requirements/fuzz.lock && touch .venv-fuzz/bin/st; } || echo 'test: SCHEMATHESIS COULD NOT BE INSTALLED: kvsim will not be held to its OpenAPI document' >&2

# What the guides' pipelines are made of beside our own tools.
pipes:
	@for tool in jq curl mlr:miller gnuplot:gnuplot-nox; do tests/debian.sh $${tool%:*} $${tool#*:} || echo "test: THE GUIDES' PIPELINES WITH $${tool%:*} WILL NOT BE RUN (see above)" >&2; done

$(INSTALLED): pyproject.toml requirements/dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo 'install: $(PYTHON) is missing or older than 3.11; name another: make PYTHON=python3.12 ...' >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo 'install: $(PYTHON) cannot make environments; on Debian: apt-get install python3-venv' >&2; exit 2; }
	@echo 'install: making $(VENV)' >&2
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r requirements/dev.lock
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
	@touch $@
