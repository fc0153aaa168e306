# Every target only calls a command line. Builder's settings: DATASET DATA OUT WORKERS FEATURE TIMELINE ALIGN DECODER
# OPTION ARGS; of `corpus` also FROM CHECK ALL REPLACE KEEP, of `features` TO; trainer's: DATASET SHARDS STRATEGY FOLD
# FEATURE LABELS SCHEME ENCODER WEIGHTS RECIPE SEED RUNS WORKERS DEVICE ARGS.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
RUN    := $(VENV)/bin/python
PIP    := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

CHOSEN  := $(DATASET)# by the user: the trainer takes the only corpus built, the builder the demo
DATASET ?= demo
OUT     ?= shards/$(DATASET)
DATA    ?= data/$(DATASET)

WHERE    := --dataset $(DATASET) --data '$(DATA)' --out '$(OUT)'
SETTINGS := $(if $(FEATURE),--feature '$(FEATURE)') $(if $(TIMELINE),--timeline $(TIMELINE)) \
            $(if $(STEP),--step $(STEP)) $(if $(ALIGN),--align $(ALIGN)) $(if $(DECODER),--decoder $(DECODER)) \
            $(foreach option,$(OPTION),--option $(option))

RUNS  ?= runs
LEARN := --runs '$(RUNS)' $(if $(CHOSEN),--dataset $(CHOSEN)) $(if $(SHARDS),--shards '$(SHARDS)') \
         $(if $(STRATEGY),--strategy $(STRATEGY)) $(if $(FOLD),--fold $(FOLD)) $(if $(SCHEME),--fold-scheme $(SCHEME)) \
         $(if $(LABELS),--label-scheme $(LABELS)) $(if $(FEATURE),--feature $(FEATURE)) \
         $(if $(ENCODER),--encoder $(ENCODER)) $(if $(WEIGHTS),--weights '$(WEIGHTS)') $(if $(RECIPE),--recipe $(RECIPE)) \
         $(if $(SEED),--seed $(SEED)) $(if $(WORKERS),--workers $(WORKERS)) $(if $(DEVICE),--device $(DEVICE))

.PHONY: help
help:  ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort | expand -t 18

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/builder.ok: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "setting up the builder in $(VENV) (once)"
	$(PIP) --editable '.[builder]'
	$(PIP) --no-deps mediapipe
	@touch $@

$(VENV)/train.ok: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "setting up the trainer in $(VENV) (once)"
	$(PIP) --editable '.[train]'
	@touch $@

$(VENV)/test.ok: $(VENV)/builder.ok
	@echo "setting up the tests in $(VENV) (once)"
	$(PIP) --editable '.[builder,test]'
	@touch $@

$(VENV)/test-train.ok: $(VENV)/test.ok $(VENV)/train.ok
	@echo "setting up the trainer's tests in $(VENV) (once)"
	$(PIP) --editable '.[builder,train,test,test-train]'
	@touch $@

.PHONY: corpus shards features plan verify report doctor
corpus: $(VENV)/builder.ok  ## Fetch the originals of DATASET=ravdess|crema-d, or say how to get them (CHECK=1: only check)
	@$(RUN) -m builder corpus --dataset $(DATASET) --data '$(DATA)' $(if $(FROM),--from '$(FROM)') \
	    $(if $(CHECK),--check) $(if $(ALL),--all) $(if $(REPLACE),--replace) $(if $(KEEP),--keep-archives) $(ARGS)

shards: $(VENV)/builder.ok  ## Build shards: DATASET=demo|ravdess|crema-d|iemocap|folder DATA=folder OUT=folder
	@$(RUN) -m builder shards $(WHERE) $(SETTINGS) $(if $(WORKERS),--workers $(WORKERS)) \
	    $(if $(ALLOW_DROPS),--allow-drops) $(if $(PRUNE),--prune) $(ARGS)

features: $(VENV)/builder.ok  ## Make FEATURE=logmel of the sound in OUT's shards, without recordings: shards in TO=folder
	@$(RUN) -m builder features '$(OUT)' --feature '$(FEATURE)' $(if $(TO),--out '$(TO)') \
	    $(if $(WORKERS),--workers $(WORKERS)) $(ARGS)

plan: $(VENV)/builder.ok  ## Say what would be built, what is absent and what is defective
	@$(RUN) -m builder plan $(WHERE) $(SETTINGS) $(if $(ALL),--all) $(ARGS)

verify: $(VENV)/builder.ok  ## Hold built shards against their index (QUICK=1: sizes only)
	@$(RUN) -m manifests verify '$(OUT)' $(if $(QUICK),--quick)

report: $(VENV)/builder.ok  ## Make report.html of built shards again
	@$(RUN) -m builder report $(WHERE) $(ARGS)

doctor: $(VENV)/builder.ok  ## Load every backend, check disk, memory and corpus, say what to do
	@$(RUN) -m builder.doctor $(WHERE)

.PHONY: train sweep results
train: $(VENV)/train.ok  ## Train a strategy on a fold: STRATEGY FOLD DATASET ENCODER WEIGHTS RECIPE LABELS SCHEME
	@$(RUN) -m train train $(LEARN) $(ARGS)

sweep: $(VENV)/train.ok  ## Train all strategies on all folds, or those of STRATEGY and FOLD; skips what is done
	@$(RUN) -m train sweep $(LEARN) $(ARGS)

results: $(VENV)/train.ok  ## Set the paper's tables beside all runs, with plots: runs/report
	@$(RUN) -m train report --runs '$(RUNS)' $(ARGS)

.PHONY: test test-train test-slow lint bench-build bench-load
test: $(VENV)/test.ok lint  ## Lint, types, import contracts and tests
	@$(RUN) -m pytest $(ARGS)

test-train: $(VENV)/test-train.ok  ## The trainer's tests (they need torch)
	@$(RUN) -m pytest tests/train $(ARGS)

test-slow: $(VENV)/test.ok  ## The tests that take minutes
	@$(RUN) -m pytest -m slow $(ARGS)

lint: $(VENV)/test.ok  ## Ruff, mypy, import contracts
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check .
	@$(VENV)/bin/mypy --no-error-summary
	@said=$$($(VENV)/bin/lint-imports --no-cache 2>&1) || { echo "$$said"; exit 1; }

bench-build: $(VENV)/builder.ok  ## CPU a clip takes against the floor, and where it goes
	@$(RUN) -m builder.bench --dataset $(DATASET) --data '$(DATA)' $(ARGS)

bench-load: $(VENV)/train.ok  ## Clips/s a core that the loader makes of shards, beside bare decoding of the same bytes
	@$(RUN) -m train.bench_load '$(or $(SHARDS),$(OUT))' $(ARGS)

.PHONY: clean
clean:  ## Remove the environment; shards and data stay
	rm -rf $(VENV)
