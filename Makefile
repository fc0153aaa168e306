# Every target only calls a command line. `make help` lists the targets, the README pages explain the settings.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

quote = '$(subst ','\'',$(1))'# for the shell: names of folders may contain an apostrophe

require = $(if $($(1)),,$(error $(1)= is missing: $(2)))# for settings without a default

GIVEN_DATASET := $(DATASET)# empty by default: the trainer then takes the only corpus in shards/, the builder the demo
GIVEN_OUT     := $(OUT)

DATASET ?= demo
OUT     ?= shards/$(DATASET)
DATA    ?= data/$(DATASET)

FOLDERS  := --dataset $(DATASET) --data $(call quote,$(DATA)) --out $(call quote,$(OUT))
SETTINGS := $(if $(FEATURE),--feature $(call quote,$(FEATURE))) $(if $(TIMELINE),--timeline $(TIMELINE)) \
            $(if $(STEP),--step $(STEP)) $(if $(ALIGN),--align $(ALIGN)) $(if $(DECODER),--decoder $(DECODER)) \
            $(foreach option,$(OPTION),--option $(option))

CLUSTER  := $(if $(RANK),--rank $(RANK)) $(if $(WORLD_SIZE),--world-size $(WORLD_SIZE)) \
            $(if $(ENGINE),--engine $(ENGINE)) $(if $(SCHEDULER),--scheduler $(SCHEDULER))

HUB    := $(if $(WEIGHTS),$(if $(wildcard $(WEIGHTS)),,hf://$(WEIGHTS)))# WEIGHTS that are not a file are an id
STORES := $(if $(filter s3://% hf://%,$(SHARDS) $(FROM) $(DEST) $(HUB)),$(VENV)/stores.ok)# installed if an address needs them

RUNS     ?= runs
TRAINING := --runs $(call quote,$(RUNS)) $(if $(GIVEN_DATASET),--dataset $(GIVEN_DATASET)) \
            $(if $(SHARDS),--shards $(call quote,$(SHARDS))) $(if $(STRATEGY),--strategy $(STRATEGY)) \
            $(if $(FOLD),--fold $(FOLD)) $(if $(SCHEME),--fold-scheme $(SCHEME)) \
            $(if $(LABELS),--label-scheme $(LABELS)) $(if $(FEATURE),--feature $(FEATURE)) \
            $(if $(ENCODER),--encoder $(ENCODER)) $(if $(WEIGHTS),--weights $(call quote,$(WEIGHTS))) \
            $(if $(RECIPE),--recipe $(RECIPE)) $(if $(SEED),--seed $(SEED)) \
            $(if $(WORKERS),--workers $(WORKERS)) $(if $(DEVICE),--device $(DEVICE))

.PHONY: help
help:  ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort | expand -t 18

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

EXTRAS_core    := .
EXTRAS_builder := .[builder]
EXTRAS_train   := .[train]
EXTRAS_stores  := .[hub,s3]
EXTRAS_dask    := .[dask]
EXTRAS_test    := .[builder,train,test]

$(VENV)/%.ok: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "setting up $(VENV) for $* (once)"
	$(PIP) --editable '$(EXTRAS_$*)'
	$(if $(filter builder,$*),$(PIP) --no-deps mediapipe)
	@touch $@

$(VENV)/test.ok: $(VENV)/builder.ok $(VENV)/train.ok

.PHONY: corpus shards features plan verify report doctor
corpus: $(VENV)/builder.ok  ## Download the recordings of DATASET=ravdess|crema-d (CHECK=1: only check them)
	@$(PY) -m builder corpus --dataset $(DATASET) --data $(call quote,$(DATA)) $(if $(FROM),--from $(call quote,$(FROM))) \
	    $(if $(CHECK),--check) $(if $(ALL),--all) $(if $(REPLACE),--replace) $(if $(KEEP),--keep-archives) $(ARGS)

shards: $(VENV)/builder.ok $(if $(filter dask,$(ENGINE)),$(VENV)/dask.ok)  ## Build shards: DATASET=demo|ravdess|crema-d|iemocap|folder DATA=folder OUT=folder
	@$(PY) -m builder shards $(FOLDERS) $(SETTINGS) $(CLUSTER) $(if $(WORKERS),--workers $(WORKERS)) \
	    $(if $(ALLOW_DROPS),--allow-drops) $(if $(PRUNE),--prune) $(ARGS)

features: $(VENV)/builder.ok  ## Compute FEATURE=logmel from the sound in OUT's shards, without recordings: shards in TO=folder
	$(call require,FEATURE,one or several of mfcc logmel stft)
	@$(PY) -m builder features $(call quote,$(OUT)) --feature $(call quote,$(FEATURE)) $(if $(TO),--out $(call quote,$(TO))) \
	    $(if $(WORKERS),--workers $(WORKERS)) $(ARGS)

plan: $(VENV)/builder.ok  ## Show what would be built, and which recordings are missing or defective
	@$(PY) -m builder plan $(FOLDERS) $(SETTINGS) $(if $(ALL),--all) $(ARGS)

verify: $(VENV)/core.ok  ## Verify finished shards against their index (QUICK=1: sizes only)
	@$(PY) -m manifests verify $(call quote,$(OUT)) $(if $(QUICK),--quick)

report: $(VENV)/builder.ok  ## Write report.html of finished shards again
	@$(PY) -m builder report $(FOLDERS) $(ARGS)

doctor: $(VENV)/builder.ok  ## Load every backend, check disk, memory and corpus, explain how to fix problems
	@$(PY) -m builder.doctor $(FOLDERS)

.PHONY: share fetch withdraw
share: $(VENV)/core.ok $(STORES)  ## Copy finished shards to DEST=folder|s3://bucket/path|hf://datasets/owner/name and verify them there
	$(call require,DEST,folder|s3://bucket/path|hf://datasets/owner/name)
	@$(PY) -m manifests share $(call quote,$(OUT)) $(call quote,$(DEST)) $(if $(AFFIRM),--affirm $(call quote,$(AFFIRM))) $(if $(PUBLIC),--public) \
	    $(if $(NO_REPORT),--no-report) $(if $(PRUNE),--prune) $(ARGS)

fetch: $(VENV)/core.ok $(STORES)  ## Copy shards FROM=folder|https://|s3://|hf://datasets/owner/name; only those of FOLD=k SPLIT="train test"
	$(call require,FROM,folder|https://|s3://bucket/path|hf://datasets/owner/name)
	@$(PY) -m manifests fetch $(call quote,$(FROM)) $(call quote,$(OUT)) $(if $(FOLD),--fold $(FOLD)) $(if $(SPLIT),--split $(SPLIT)) \
	    $(if $(SCHEME),--fold-scheme $(SCHEME)) $(if $(GIVEN_DATASET)$(filter shards/%,$(OUT)),--dataset $(DATASET)) \
	    $(if $(PRUNE),--prune) $(ARGS)

withdraw: $(VENV)/core.ok  ## Remove SPEAKER="1001 1002" from finished shards; other shards do not change
	$(call require,SPEAKER,ids of the speakers to remove)
	@$(PY) -m manifests withdraw $(call quote,$(OUT)) $(SPEAKER) $(ARGS)

.PHONY: train sweep results predict export
train: $(VENV)/train.ok $(STORES)  ## Train a strategy on a fold: STRATEGY FOLD DATASET ENCODER WEIGHTS RECIPE LABELS SCHEME
	@$(PY) -m train train $(TRAINING) $(ARGS)

sweep: $(VENV)/train.ok $(STORES)  ## Train all strategies on all folds, or those of STRATEGY and FOLD; skips finished runs
	@$(PY) -m train sweep $(TRAINING) $(ARGS)

results: $(VENV)/train.ok  ## Compare all runs with the paper's tables, with plots: runs/report
	@$(PY) -m train report --runs $(call quote,$(RUNS)) $(ARGS)

predict: $(VENV)/train.ok $(VENV)/builder.ok  ## Classify recordings with a run: RUN=folder CLIP="a.mp4 b.flv", or SHARDS=folder
	$(call require,RUN,folder of a finished run or of an exported one)
	@$(PY) -m train predict --run $(call quote,$(RUN)) $(if $(SHARDS),--shards $(call quote,$(SHARDS))) $(CLIP) $(ARGS)

export: $(VENV)/train.ok  ## Export a finished run: RUN=folder OUT=folder
	$(call require,RUN,folder of a finished run)
	$(if $(GIVEN_OUT),,$(error OUT= is missing: folder to write))
	@$(PY) -m train export --run $(call quote,$(RUN)) --out $(call quote,$(GIVEN_OUT)) $(ARGS)

PARALLEL := --numprocesses auto --dist worksteal

.PHONY: test test-slow prove lint bench bench-build bench-index bench-load bench-train
test: $(VENV)/test.ok lint  ## Lint, types, import contracts, and tests on all cores
	@$(PY) -m pytest $(PARALLEL) $(ARGS)

test-slow: $(VENV)/test.ok  ## Run the tests that take minutes
	@$(PY) -m pytest $(PARALLEL) -m slow $(ARGS)

prove: $(VENV)/test.ok  ## Inject every fault of the fault matrix and print the results
	@$(PY) -m tests.prove $(ARGS)

lint: $(VENV)/test.ok  ## Ruff, mypy, import contracts
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check .
	@$(VENV)/bin/mypy --no-error-summary
	@output=$$($(VENV)/bin/lint-imports --no-cache 2>&1) || { echo "$$output"; exit 1; }

bench: $(VENV)/test.ok  ## Run every bench: a table, JSON and a plot in bench/; ARGS='--compare OLD.json NEW.json'
	@$(PY) -m tests.bench $(if $(GIVEN_DATASET),--dataset $(DATASET) --data $(call quote,$(DATA))) \
	    $(if $(SHARDS),--shards $(call quote,$(SHARDS))) $(ARGS)

bench-build: $(VENV)/builder.ok  ## CPU time per clip, by step, compared with the floor
	@$(PY) -m tests.bench.bench_build --dataset $(DATASET) --data $(call quote,$(DATA)) $(ARGS)

bench-index: $(VENV)/test.ok  ## Time and memory of planning, indexing, verifying and opening a million clips
	@$(PY) -m tests.bench.scale $(ARGS)

bench-load: $(VENV)/train.ok  ## Clips/s per core of the loader, compared with bare decoding of the same bytes
	@$(PY) -m tests.bench.bench_load $(call quote,$(or $(SHARDS),$(OUT))) $(ARGS)

bench-train: $(VENV)/train.ok  ## Clips/s and MFU of fine-tuning and of frozen features: ENCODER DEVICE ARGS
	@$(PY) -m tests.bench.bench_train $(if $(ENCODER),--encoder $(ENCODER)) $(if $(DEVICE),--device $(DEVICE)) $(ARGS)

.PHONY: clean
clean:  ## Remove the environment; keep shards and data
	rm -rf $(VENV)
