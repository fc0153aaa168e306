# Every target only calls a command line. `make help` lists the targets, the README pages explain the settings.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PY   := $(VENV)/bin/python
ANY_PYTHON = "$$(command -v python3 || command -v python3.11 || command -v python3.12 || echo "$${PYTHON:-python3}")"

SETTINGS := AFFIRM ALIGN ALL ALLOW_DROPS ALLOW_SHARED_SPEAKERS ARGS BATCH CHECK CLIP COLUMNS CROP DATA DATASET \
            DECODER DEPTH DEST DEVICE ENCODER ENGINE EPOCHS FEATURE FIXED_EPOCHS FOLD FORMAT FRAMES FROM FUSION HEAD KEEP \
            KEEP_ARCHIVES LABELS LAYER LOGGER LR MODEL NAME NO_REPORT OPTION OUT PROBABILITIES PRUNE PUBLIC PYTHON QUICK RANK \
            RATE RECIPE REFIT REPLACE RUN RUNS SCHEDULER SCHEME SEED SEEDS SHARDS SIZE SPEAKER SPLIT STEP STRATEGY \
            TARGET TEST TIMELINE TO TOKENIZERS WEIGHTS WORKERS WORLD_SIZE

# Terminals export their width as COLUMNS, and WSL its host as NAME, so that only arguments of make set these.
ifneq ($(origin COLUMNS),command line)
override COLUMNS :=
endif
ifneq ($(origin NAME),command line)
override NAME :=
endif

QUOTE := '
quoted = '$(subst $(QUOTE),$(QUOTE)\$(QUOTE)$(QUOTE),$(1))'# one word of a shell
UNKNOWN := $(filter-out $(SETTINGS) VENV,$(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name))))
$(if $(UNKNOWN),$(error $(shell $(ANY_PYTHON) .make.py --nearest \
    $(call quoted,$(firstword $(UNKNOWN))) --of $(SETTINGS)) (there are $(sort $(SETTINGS)))))
GIVEN := $(foreach name,$(SETTINGS),$(if $(filter command,$(origin $(name))),$(name)))# refused where they are not used
export GIVEN

# Make expands `$` in a setting, also to export it, and a shell runs what is quoted wrongly. Therefore each setting is
# exported with its literal value, and .make.py, not a shell, puts it where a recipe names it.
$(foreach name,$(sort $(SETTINGS)),$(if $(filter-out undefined,$(origin $(name))),\
    $(eval override $(name) := $$(value $(name)))$(eval export $(name))))

START = @GOAL=$@ $(PY) .make.py

HELP    = $(filter -h --help,$(ARGS))# which needs no other setting
require = $(if $($(1))$(HELP),,$(error $(1)= is missing: $(2)))# for settings without a default

GIVEN_DATASET := $(DATASET)# empty by default: the trainer then takes the only corpus in shards/, the builder the demo
GIVEN_OUT     := $(OUT)

DATASET ?= demo
OUT     ?= shards/$(DATASET)
DATA    ?= data/$(or $(NAME),$(DATASET))
RUNS    ?= runs
export GIVEN_DATASET GIVEN_OUT DATASET OUT DATA RUNS

# Without OUT, the builder derives the folder from the name of the corpus.
FOLDERS  := --dataset=DATASET --name=NAME --data=DATA --out=GIVEN_OUT
FEATURES := --feature=FEATURE --timeline=TIMELINE --step=STEP --crop=CROP --align=ALIGN --decoder=DECODER --keep=KEEP \
            --frames=FRAMES --size=SIZE --rate=RATE --option=OPTION --column=COLUMNS
CLUSTER  := --rank=RANK --world-size=WORLD_SIZE --engine=ENGINE --scheduler=SCHEDULER
TOKENIZING := --runs=RUNS --dataset+GIVEN_DATASET --shards+SHARDS --fold=FOLD --fold-scheme+SCHEME --recipe=RECIPE \
            --seed=SEED --seeds=SEEDS --fixed-epochs:FIXED_EPOCHS --workers=WORKERS --device=DEVICE \
            --allow-shared-speakers:ALLOW_SHARED_SPEAKERS --epochs=EPOCHS --batch=BATCH --learning-rate=LR \
            --logger=LOGGER
PRETRAINING := $(TOKENIZING) --strategy=STRATEGY --label-scheme=LABELS --feature=FEATURE --encoder=ENCODER \
            --weights=WEIGHTS --model=MODEL --tokenizers=TOKENIZERS --head=HEAD --depth=DEPTH --fusion=FUSION
TRAINING := $(PRETRAINING) --test+TEST --refit=REFIT

HUB    := $(if $(filter 1,$(words $(WEIGHTS))),$(if $(wildcard $(WEIGHTS)),,hf://$(WEIGHTS)))# not a file: an id
STORES := $(if $(filter s3://% hf://%,$(SHARDS) $(TEST) $(FROM) $(DEST) $(HUB)),$(VENV)/stores.ok)# installed if an address needs them
EXCEL  := $(if $(wildcard $(DATA)/clips.xlsx)$(filter csv=%.xlsx csv=%.xlsm,$(OPTION)),$(VENV)/excel.ok)# and these if a table does
TABLES := $(if $(filter %.xlsx %.xlsm,$(SCHEME) $(LABELS)),$(VENV)/excel.ok)
LOGGERS := $(patsubst %,$(VENV)/%.ok,$(filter tensorboard wandb,$(LOGGER)))
ONNX    := $(if $(filter onnx,$(FORMAT)),$(VENV)/onnx.ok)
PARQUET := $(if $(filter %.parquet,$(TO)),$(VENV)/parquet.ok)

.PHONY: help
help:  ## Show this help; TARGET=train lists the settings of a target
	@$(ANY_PYTHON) .make.py --list $(if $(TARGET),"$$TARGET")

# An environment that cannot be used, e.g. because its Python is gone, is made again, as is one of another PYTHON=.
STALE := $(if $(wildcard $(VENV)),$(shell $(PY) -IS .make.py --check $(VENV) >/dev/null 2>&1 || echo .FORCE))
.PHONY: .FORCE

EXTRAS_core    := '.'
EXTRAS_builder := '.[builder]' mediapipe# which is installed without its dependencies
EXTRAS_train   := '.[train]'
EXTRAS_stores  := '.[hub,s3]'
EXTRAS_dask    := '.[dask]'
EXTRAS_excel   := '.[excel]'
EXTRAS_onnx    := '.[onnx]'
EXTRAS_parquet := '.[parquet]'
EXTRAS_tensorboard := '.[tensorboard]'
EXTRAS_wandb   := '.[wandb]'
EXTRAS_test    := '.[builder,train,test]'

$(VENV)/%.ok: pyproject.toml constraints.txt $(STALE) $(if $(filter PYTHON,$(GIVEN)),.FORCE)
	@$(ANY_PYTHON) .make.py --set-up $@ $(EXTRAS_$*)

$(VENV)/test.ok: $(VENV)/builder.ok $(VENV)/train.ok

.PHONY: corpus shards features plan verify report doctor
corpus: $(VENV)/builder.ok  ## Download the recordings of DATASET=ravdess|crema-d (CHECK=1: only check them)
	$(if $(filter 1,$(KEEP)),$(error KEEP=1: expected KEEP_ARCHIVES=1 to keep archives; KEEP= is a setting of make shards))
	$(START) builder corpus --dataset=DATASET --data=DATA --from=FROM --check:CHECK --all:ALL --replace:REPLACE \
	    --keep-archives:KEEP_ARCHIVES ARGS

shards: $(VENV)/builder.ok $(if $(filter dask,$(ENGINE)),$(VENV)/dask.ok) $(EXCEL)  ## Build shards: DATASET=demo|ravdess|crema-d|iemocap|mead|voxceleb2|folder DATA=folder NAME=name OUT=folder
	$(START) builder shards $(FOLDERS) $(FEATURES) $(CLUSTER) --workers=WORKERS --allow-drops:ALLOW_DROPS --prune:PRUNE ARGS

features: $(VENV)/builder.ok  ## Compute FEATURE=logmel from the sound in OUT's shards, without recordings: shards in TO=folder
	$(call require,FEATURE,one or several of mfcc logmel stft)
	$(START) builder features OUT --feature=FEATURE --out=TO --workers=WORKERS ARGS

plan: $(VENV)/builder.ok $(EXCEL)  ## Show what would be built, and which recordings are missing or defective
	$(START) builder plan $(FOLDERS) $(FEATURES) --all:ALL ARGS

verify: $(VENV)/core.ok  ## Verify finished shards against their index (QUICK=1: no hashes, no samples)
	$(START) manifests verify OUT --quick:QUICK

report: $(VENV)/builder.ok  ## Write report.html of finished shards again
	$(START) builder report $(FOLDERS) ARGS

doctor: $(VENV)/builder.ok $(EXCEL)  ## Load every backend, check disk, memory and corpus, explain how to fix problems
	$(START) builder.doctor $(FOLDERS)

.PHONY: share fetch folds withdraw
share: $(VENV)/core.ok $(STORES)  ## Copy finished shards to DEST=folder|s3://bucket/path|hf://datasets/owner/name and verify them there
	$(call require,DEST,folder|s3://bucket/path|hf://datasets/owner/name)
	$(START) manifests share OUT DEST --affirm=AFFIRM --public:PUBLIC --no-report:NO_REPORT --prune:PRUNE ARGS

fetch: $(VENV)/core.ok $(STORES) $(TABLES)  ## Copy shards FROM=folder|https://|s3://|hf://datasets/owner/name; only those of FOLD=k SPLIT="train test"
	$(call require,FROM,folder|https://|s3://bucket/path|hf://datasets/owner/name)
	$(START) manifests fetch FROM OUT --fold=FOLD --split=SPLIT --fold-scheme=SCHEME \
	    $(if $(GIVEN_DATASET)$(filter shards/%,$(firstword $(OUT))),--dataset=DATASET) --prune:PRUNE \
	    --allow-shared-speakers:ALLOW_SHARED_SPEAKERS ARGS

folds: $(VENV)/core.ok $(TABLES)  ## Add the folds of a table to finished shards: SCHEME=split.csv
	$(call require,SCHEME,a table with columns speaker or clip and fold or side)
	$(START) manifests folds OUT SCHEME --allow-shared-speakers:ALLOW_SHARED_SPEAKERS ARGS

withdraw: $(VENV)/core.ok  ## Remove SPEAKER="1001 1002" from finished shards; other shards do not change
	$(call require,SPEAKER,ids of the speakers to remove)
	$(START) manifests withdraw OUT SPEAKER ARGS

.PHONY: train sweep pretrain tokenizers tokens results predict embeddings export
train: $(VENV)/train.ok $(STORES) $(LOGGERS) $(TABLES)  ## Train a strategy on a fold: STRATEGY FOLD DATASET ENCODER WEIGHTS RECIPE LABELS SCHEME; or on all of DATASET="a b" with TEST=c
	$(START) train train $(TRAINING) ARGS

sweep: $(VENV)/train.ok $(STORES) $(LOGGERS) $(TABLES)  ## Train all strategies on all folds, or those of STRATEGY and FOLD, or with TEST=corpus; skips finished runs
	$(START) train sweep $(TRAINING) ARGS

pretrain: $(VENV)/train.ok $(STORES) $(LOGGERS) $(TABLES)  ## Pre-train an encoder without labels: STRATEGY DATASET="a b" ENCODER RECIPE; FOLD leaves its test speakers out
	$(START) train pretrain $(PRETRAINING) ARGS

tokenizers: $(VENV)/train.ok $(STORES) $(LOGGERS) $(TABLES)  ## Train VQ-MAE-AV's tokenizers on sequences (FRAMES=all RATE=25 SIZE=96): DATASET="a b" RECIPE; FOLD leaves its test speakers out
	$(START) train tokenizers $(TOKENIZING) ARGS

tokens: $(VENV)/train.ok $(STORES)  ## Write shards of the codes of sequences in OUT by tokenizers: WEIGHTS=folder; TO=folder
	$(call require,WEIGHTS,folder of tokenizers such as runs/demo/tokenizers/model)
	$(START) train tokens OUT --weights=WEIGHTS --out=TO --workers=WORKERS --device=DEVICE ARGS

results: $(VENV)/train.ok  ## Compare all runs with the paper's tables, with plots: runs/report
	$(START) train report --runs=RUNS ARGS

predict: $(VENV)/train.ok $(VENV)/builder.ok $(STORES)  ## Classify recordings with a run: RUN=folder CLIP="a.mp4 folder '*.flv'", or SHARDS=folder; FORMAT TO
	$(call require,RUN,folder of a finished run or of an exported one)
	$(START) train predict --run=RUN --shards=SHARDS --encoder=ENCODER --strategy=STRATEGY \
	    --format=FORMAT --out=TO --probabilities:PROBABILITIES CLIP ARGS

embeddings: $(VENV)/train.ok $(STORES) $(PARQUET) $(TABLES)  ## Write vectors of an encoder for every clip: RUN=folder, or WEIGHTS STRATEGY; TO=file.npz or .parquet; LAYER
	$(call require,TO,file to write: .npz or .parquet)
	$(START) train embeddings --run=RUN --dataset=GIVEN_DATASET --shards=SHARDS --weights=WEIGHTS --encoder=ENCODER \
	    --strategy=STRATEGY --feature=FEATURE --layer=LAYER --fold-scheme=SCHEME --label-scheme=LABELS --out=TO \
	    --workers=WORKERS --device=DEVICE ARGS

export: $(VENV)/train.ok $(ONNX)  ## Export a finished run: RUN=folder OUT=folder; FORMAT=onnx
	$(call require,RUN,folder of a finished run)
	$(if $(GIVEN_OUT)$(HELP),,$(error OUT= is missing: folder to write))
	$(START) train export --run=RUN --out=GIVEN_OUT --format=FORMAT --encoder=ENCODER --strategy=STRATEGY ARGS

PARALLEL := --numprocesses auto --dist worksteal

.PHONY: test test-slow prove lint bench bench-build bench-index bench-load bench-train bench-pretrain bench-vq-mae-av
test: $(VENV)/test.ok lint  ## Lint, types, import contracts, and tests on all cores
	$(START) pytest $(PARALLEL) ARGS

test-slow: $(VENV)/test.ok  ## Run the tests that take minutes
	$(START) pytest $(PARALLEL) -m slow ARGS

prove: $(VENV)/test.ok  ## Inject every fault of the fault matrix and print the results
	$(START) tests.prove ARGS

lint: $(VENV)/test.ok  ## Ruff, mypy, import contracts
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check .
	@$(VENV)/bin/mypy --no-error-summary
	@output=$$($(VENV)/bin/lint-imports --no-cache 2>&1) || { echo "$$output"; exit 1; }

bench: $(VENV)/test.ok  ## Run every bench: a table, JSON and a plot in bench/; ARGS='--compare OLD.json NEW.json'
	$(START) tests.bench $(if $(GIVEN_DATASET),--dataset=DATASET --data=DATA) --shards=SHARDS ARGS

bench-build: $(VENV)/builder.ok  ## CPU time per clip, by step, compared with the floor
	$(START) tests.bench.bench_build --dataset=DATASET --data=DATA ARGS

bench-index: $(VENV)/test.ok  ## Time and memory of planning, indexing, verifying and opening a million clips
	$(START) tests.bench.scale ARGS

bench-load: $(VENV)/train.ok  ## Clips/s per core of the loader, compared with bare decoding of the same bytes
	$(START) tests.bench.bench_load $(if $(SHARDS),SHARDS,OUT) ARGS

bench-train: $(VENV)/train.ok  ## Clips/s and MFU of fine-tuning and of frozen features: ENCODER DEVICE ARGS
	$(START) tests.bench.bench_train --encoder=ENCODER --device=DEVICE ARGS

bench-pretrain: $(VENV)/test.ok  ## Clips/s and MFU of masked pre-training, and where its time goes: ENCODER STRATEGY SHARDS DEVICE ARGS
	$(START) tests.bench.bench_pretrain --encoder=ENCODER --strategy=STRATEGY --shards=SHARDS --device=DEVICE ARGS

bench-vq-mae-av: $(VENV)/test.ok  ## Clips/s of VQ-MAE-AV's stages beside plain PyTorch, and of the loader of tokens: ENCODER SHARDS DEVICE ARGS
	$(START) tests.bench.bench_vq_mae --encoder=ENCODER --shards=SHARDS --device=DEVICE ARGS

.PHONY: clean
clean:  ## Remove the environment; keep shards and data
	rm -rf $(VENV)
