# Every target only calls a command line; `make help` says what each takes, README.md what the settings mean.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

q = '$(subst ','\'',$(1))'# for the shell: folders may have an apostrophe

needs = $(if $($(1)),,$(error $(1)= is missing: $(2)))# of what has no default

CHOSEN  := $(DATASET)# by the user: the trainer takes the only corpus built, the builder the demo
INTO    := $(OUT)# by the user
DATASET ?= demo
OUT     ?= shards/$(DATASET)
DATA    ?= data/$(DATASET)

WHERE    := --dataset $(DATASET) --data $(call q,$(DATA)) --out $(call q,$(OUT))
SETTINGS := $(if $(FEATURE),--feature $(call q,$(FEATURE))) $(if $(TIMELINE),--timeline $(TIMELINE)) \
            $(if $(STEP),--step $(STEP)) $(if $(ALIGN),--align $(ALIGN)) $(if $(DECODER),--decoder $(DECODER)) \
            $(foreach option,$(OPTION),--option $(option))

MACHINES := $(if $(RANK),--rank $(RANK)) $(if $(WORLD_SIZE),--world-size $(WORLD_SIZE)) \
            $(if $(ENGINE),--engine $(ENGINE)) $(if $(SCHEDULER),--scheduler $(SCHEDULER))

HUB    := $(if $(WEIGHTS),$(if $(wildcard $(WEIGHTS)),,hf://$(WEIGHTS)))# no file: an id
STORES := $(if $(filter s3://% hf://%,$(SHARDS) $(FROM) $(DEST) $(HUB)),$(VENV)/stores.ok)# what it takes to reach them

RUNS  ?= runs
LEARN := --runs $(call q,$(RUNS)) $(if $(CHOSEN),--dataset $(CHOSEN)) $(if $(SHARDS),--shards $(call q,$(SHARDS))) \
         $(if $(STRATEGY),--strategy $(STRATEGY)) $(if $(FOLD),--fold $(FOLD)) $(if $(SCHEME),--fold-scheme $(SCHEME)) \
         $(if $(LABELS),--label-scheme $(LABELS)) $(if $(FEATURE),--feature $(FEATURE)) \
         $(if $(ENCODER),--encoder $(ENCODER)) $(if $(WEIGHTS),--weights $(call q,$(WEIGHTS))) $(if $(RECIPE),--recipe $(RECIPE)) \
         $(if $(SEED),--seed $(SEED)) $(if $(WORKERS),--workers $(WORKERS)) $(if $(DEVICE),--device $(DEVICE))

.PHONY: help
help:  ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort | expand -t 18

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

NEEDS_core    := .
NEEDS_builder := .[builder]
NEEDS_train   := .[train]
NEEDS_stores  := .[hub,s3]
NEEDS_dask    := .[dask]
NEEDS_test    := .[builder,train,test]

$(VENV)/%.ok: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "setting up $(VENV) for $* (once)"
	$(PIP) --editable '$(NEEDS_$*)'
	$(if $(filter builder,$*),$(PIP) --no-deps mediapipe)
	@touch $@

$(VENV)/test.ok: $(VENV)/builder.ok $(VENV)/train.ok

.PHONY: corpus shards features plan verify report doctor
corpus: $(VENV)/builder.ok  ## Fetch the originals of DATASET=ravdess|crema-d, or say how to get them (CHECK=1: only check)
	@$(PY) -m builder corpus --dataset $(DATASET) --data $(call q,$(DATA)) $(if $(FROM),--from $(call q,$(FROM))) \
	    $(if $(CHECK),--check) $(if $(ALL),--all) $(if $(REPLACE),--replace) $(if $(KEEP),--keep-archives) $(ARGS)

shards: $(VENV)/builder.ok $(if $(filter dask,$(ENGINE)),$(VENV)/dask.ok)  ## Build shards: DATASET=demo|ravdess|crema-d|iemocap|folder DATA=folder OUT=folder
	@$(PY) -m builder shards $(WHERE) $(SETTINGS) $(MACHINES) $(if $(WORKERS),--workers $(WORKERS)) \
	    $(if $(ALLOW_DROPS),--allow-drops) $(if $(PRUNE),--prune) $(ARGS)

features: $(VENV)/builder.ok  ## Make FEATURE=logmel of the sound in OUT's shards, without recordings: shards in TO=folder
	$(call needs,FEATURE,one or several of mfcc logmel stft)
	@$(PY) -m builder features $(call q,$(OUT)) --feature $(call q,$(FEATURE)) $(if $(TO),--out $(call q,$(TO))) \
	    $(if $(WORKERS),--workers $(WORKERS)) $(ARGS)

plan: $(VENV)/builder.ok  ## Say what would be built, what is absent and what is defective
	@$(PY) -m builder plan $(WHERE) $(SETTINGS) $(if $(ALL),--all) $(ARGS)

verify: $(VENV)/core.ok  ## Hold built shards against their index (QUICK=1: sizes only)
	@$(PY) -m manifests verify $(call q,$(OUT)) $(if $(QUICK),--quick)

report: $(VENV)/builder.ok  ## Make report.html of built shards again
	@$(PY) -m builder report $(WHERE) $(ARGS)

doctor: $(VENV)/builder.ok  ## Load every backend, check disk, memory and corpus, say what to do
	@$(PY) -m builder.doctor $(WHERE)

.PHONY: share fetch withdraw
share: $(VENV)/core.ok $(STORES)  ## Copy finished shards to DEST=folder|s3://bucket/path|hf://datasets/owner/name, checked there
	$(call needs,DEST,folder|s3://bucket/path|hf://datasets/owner/name)
	@$(PY) -m manifests share $(call q,$(OUT)) $(call q,$(DEST)) $(if $(AFFIRM),--affirm $(call q,$(AFFIRM))) $(if $(PUBLIC),--public) \
	    $(if $(NO_REPORT),--no-report) $(if $(PRUNE),--prune) $(ARGS)

fetch: $(VENV)/core.ok $(STORES)  ## Bring shards FROM=folder|https://|s3://|hf://datasets/owner/name; of FOLD=k SPLIT="train test" only
	$(call needs,FROM,folder|https://|s3://bucket/path|hf://datasets/owner/name)
	@$(PY) -m manifests fetch $(call q,$(FROM)) $(call q,$(OUT)) $(if $(FOLD),--fold $(FOLD)) $(if $(SPLIT),--split $(SPLIT)) \
	    $(if $(SCHEME),--fold-scheme $(SCHEME)) $(if $(CHOSEN)$(filter shards/%,$(OUT)),--dataset $(DATASET)) \
	    $(if $(PRUNE),--prune) $(ARGS)

withdraw: $(VENV)/core.ok  ## Remove SPEAKER="1001 1002" from finished shards; the rest keeps its hashes
	$(call needs,SPEAKER,who is to be removed)
	@$(PY) -m manifests withdraw $(call q,$(OUT)) $(SPEAKER) $(ARGS)

.PHONY: train sweep results predict export
train: $(VENV)/train.ok $(STORES)  ## Train a strategy on a fold: STRATEGY FOLD DATASET ENCODER WEIGHTS RECIPE LABELS SCHEME
	@$(PY) -m train train $(LEARN) $(ARGS)

sweep: $(VENV)/train.ok $(STORES)  ## Train all strategies on all folds, or those of STRATEGY and FOLD; skips what is done
	@$(PY) -m train sweep $(LEARN) $(ARGS)

results: $(VENV)/train.ok  ## Set the paper's tables beside all runs, with plots: runs/report
	@$(PY) -m train report --runs $(call q,$(RUNS)) $(ARGS)

predict: $(VENV)/train.ok $(VENV)/builder.ok  ## Say what a run makes of recordings: RUN=folder CLIP="a.mp4 b.flv", or SHARDS=folder
	$(call needs,RUN,folder of a finished run or an exported one)
	@$(PY) -m train predict --run $(call q,$(RUN)) $(if $(SHARDS),--shards $(call q,$(SHARDS))) $(CLIP) $(ARGS)

export: $(VENV)/train.ok  ## Write a finished run as a folder to hand on: RUN=folder OUT=folder
	$(call needs,RUN,folder of a finished run)
	$(if $(INTO),,$(error OUT= is missing: folder to write))
	@$(PY) -m train export --run $(call q,$(RUN)) --out $(call q,$(INTO)) $(ARGS)

.PHONY: test test-slow prove lint bench bench-build bench-index bench-load bench-train
test: $(VENV)/test.ok lint  ## Lint, types, import contracts and tests
	@$(PY) -m pytest $(ARGS)

test-slow: $(VENV)/test.ok  ## The tests that take minutes
	@$(PY) -m pytest -m slow $(ARGS)

prove: $(VENV)/test.ok  ## Inject every fault that the README lists and print what was seen
	@$(PY) tests/prove $(ARGS)

lint: $(VENV)/test.ok  ## Ruff, mypy, import contracts
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check .
	@$(VENV)/bin/mypy --no-error-summary
	@said=$$($(VENV)/bin/lint-imports --no-cache 2>&1) || { echo "$$said"; exit 1; }

bench: $(VENV)/test.ok  ## Measure every stage: a table, JSON and a plot in bench/; ARGS='--compare OLD.json NEW.json'
	@$(PY) tests/bench $(if $(CHOSEN),--dataset $(DATASET) --data $(call q,$(DATA))) \
	    $(if $(SHARDS),--shards $(call q,$(SHARDS))) $(ARGS)

bench-build: $(VENV)/builder.ok  ## CPU a clip takes against the floor, and where it goes
	@$(PY) tests/bench/bench_build.py --dataset $(DATASET) --data $(call q,$(DATA)) $(ARGS)

bench-index: $(VENV)/test.ok  ## What planning, indexing, checking and opening a fold of a million clips take
	@$(PY) tests/bench/scale.py $(ARGS)

bench-load: $(VENV)/train.ok  ## Clips/s a core that the loader makes of shards, beside bare decoding of the same bytes
	@$(PY) tests/bench/bench_load.py $(call q,$(or $(SHARDS),$(OUT))) $(ARGS)

bench-train: $(VENV)/train.ok  ## Clips/s and MFU of fine-tuning and of frozen features: ENCODER DEVICE ARGS
	@$(PY) tests/bench/bench_train.py $(if $(ENCODER),--encoder $(ENCODER)) $(if $(DEVICE),--device $(DEVICE)) $(ARGS)

.PHONY: clean
clean:  ## Remove the environment; shards and data stay
	rm -rf $(VENV)
