"""Command line of the trainer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from manifests.console import Parser, add_command, folder_path, run_command, say
from manifests.errors import UserError
from manifests.folds import SIDES
from manifests.index import DATASET_FILE, load_dataset
from manifests.joined_folds import WHOLE
from manifests.progress import log_line
from manifests.stores import is_remote
from manifests.text import pluralize, shorten_list
from train import cost, embeddings, predict, runs
from train.clip_prediction import FORMATS, ClipPrediction, format_clips, format_for
from train.config import DEMO, DEMO_DEFAULT, ENCODER_DEFAULT, TOKENIZERS, ConfigError, TrainConfig, device_for
from train.data.corpora import Corpora, open_corpora, open_whole
from train.data.fold_data import choose_label_schemes, require_labels, unusable_fold
from train.data.shard_folder import find_folder, open_folder
from train.distributed import Ranks, init_distributed
from train.export import FORMATS as EXPORT_FORMATS
from train.export import export
from train.fusion import STRATEGIES, TOKEN_STRATEGIES
from train.loggers import LOGGERS, check_loggers
from train.metrics import MIN_SPEAKERS
from train.models.checkpoint_io import RUN_MODEL
from train.models.videomae import ENCODERS
from train.models.vq_mae_av import MODEL_DEFAULT
from train.models.vq_mae_heads import HEADS
from train.own_code import is_import_path
from train.pretraining.run import describe_pretrained, run_pretraining
from train.pretraining.setup import prepare_pretraining
from train.recipes import RECIPES, Recipe, dump_toml, override, recipe_named
from train.recipes.table import describe_recipes, format_tables
from train.report import write_report
from train.run_fold import run_fold
from train.run_setup import TrainingSetup, prepare
from train.runs import RunProtocol, RunResult, RunSummary
from train.scoring import FoldScores
from train.tokenizers.run import describe_tokenizers, run_tokenizers
from train.tokenizers.setup import prepare_tokenizers
from train.tokenizers.shards import TokensJob, make_tokens

FEATURE_DEFAULT = "mfcc"
#: Commands whose name begins those of their recipes, which the command adds: `--recipe tiny` of `pretrain` is
#: `pretrain-tiny`.
_PREFIXED = ("pretrain", "tokenizers")
#: Options of `--model` alone, beside its name and recipe.
_OF_MODELS = ("tokenizers", "head", "depth", "fusion")
#: Folder with the shards of all corpora.
_SHARDS = Path("shards")
_COMMANDS = (
    "train",
    "sweep",
    "pretrain",
    "tokenizers",
    "tokens",
    "report",
    "predict",
    "embeddings",
    "export",
    "recipes",
)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command, `train` if none is named; the exit status, see `manifests.console`."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    return run_command(_parser(), words if words[0] in (*_COMMANDS, "-h", "--help") else ["train", *words])


def _run_train(args: argparse.Namespace) -> int:
    if args.show_recipe:
        return _show_recipe(args, (args.strategy or ["cfas"])[0])
    for name, values in (("strategy", args.strategy or []), ("fold", args.fold or [])):
        if len(values) > 1:
            raise ConfigError(f"{name}: found {', '.join(values)}, expected one; `sweep` takes several")
    _train_all(args, args.strategy or ["cfas"], args.fold)
    return 0


def _run_sweep(args: argparse.Namespace) -> int:
    """Exit status 1 if a fold cannot be used with what was built; the others are trained."""
    folds, left_out = _usable_folds(args)
    for problem in left_out:
        log_line(f"left out: {problem}")
    if trained := _train_all(args, args.strategy or list(STRATEGIES), folds):
        for summary in runs.read_summaries(Path(args.runs)):
            if _topic(summary.run.dataset, summary.run.tests, summary.run.protocol) in trained:
                say(_describe_summary(summary))
        for problem in left_out:
            say(f"left out: {problem}")
    return int(bool(left_out))


def _run_pretrain(args: argparse.Namespace) -> int:
    strategies, folds = args.strategy or ["faces"], args.fold or []
    if args.show_recipe:
        return _show_recipe(args, strategies[0])
    for name, values in (("strategy", strategies), ("fold", folds)):
        if len(values) > 1:
            raise ConfigError(f"{name}: found {', '.join(values)}, expected one")
    _refuse(args, "head", why=": a pre-training has no classifier")
    if strategies[0] in TOKEN_STRATEGIES:
        _refuse(args, "label_scheme", why=f" with {strategies[0]}: it uses no labels")
    with init_distributed(args.device) as ranks:
        for config in _configs(args, _open_unlabelled(args), strategies, folds):
            settings = config.recipe.token_pretraining
            compares = settings is not None and settings.contrastive > 0  # all clips of a step: no micro-batches
            advice = "a smaller --batch" if compares else f"--micro-batches {2 * args.micro_batches}"
            with _convert_out_of_memory(f"; try {advice}"):
                _pretrain_one(config, ranks)
    return 0


def _refuse(args: argparse.Namespace, *names: str, why: str = "") -> None:
    """Raise ConfigError for an option that was given and that the command cannot use."""
    for name in names:
        if (value := getattr(args, name)) is not None:
            found = ", ".join(value) if isinstance(value, list) else value
            raise ConfigError(f"{args.command}: found {name.replace('_', ' ')} {found}, expected none{why}")


def _open_unlabelled(args: argparse.Namespace) -> Corpora:
    """Corpora of a training without labels and without a test: of a fold, or whole. Raises ConfigError."""
    if args.test or args.refit:
        found = "--test" if args.test else "--refit"
        raise ConfigError(f"{args.command}: found {found}, expected none: nothing is tested, and no epoch is selected")
    if args.fold_scheme and not args.fold:
        raise ConfigError(
            f"{args.command}: found fold scheme {', '.join(args.fold_scheme)}, expected a fold of it, too (FOLD=, "
            "--fold), whose test speakers are left out; without both all speakers are used"
        )
    check_loggers(args.logger)
    return _open_corpora(args) if args.fold else open_whole(_locations(args), validation=not args.fixed_epochs)


def _pretrain_one(config: TrainConfig, ranks: Ranks) -> None:
    """Run a pre-training that is not finished."""
    setup = prepare_pretraining(config, ranks, log_line)
    if not setup.is_finished():
        setup.log(
            f"{setup.data.name}, {config.strategy}, {_describe_speakers(config)}: recipe {config.recipe.name}, "
            f"encoder {setup.config.encoder}, from {setup.origin}, on {ranks.device}; into {setup.folder}"
        )
    found = run_pretraining(setup)
    if ranks.is_main:
        say(f"{found.model}: {describe_pretrained(found)}")
        say(f"look at {found.page}; begin with make train WEIGHTS={found.model}")
        sys.stdout.flush()


def _describe_speakers(config: TrainConfig) -> str:
    """Whom a training without a test sees."""
    return "all speakers" if config.fold == WHOLE else f"without the test speakers of fold {config.fold}"


def _run_tokenizers(args: argparse.Namespace) -> int:
    if args.show_recipe:
        return _show_recipe(args)
    _refuse(args, "strategy", "encoder", "weights", "label_scheme", "feature")
    _refuse(args, *_OF_MODELS, why=": this is a setting of --model")
    if args.compile == "on":
        raise ConfigError("tokenizers: found compile on, expected auto or off: codebooks change during a training")
    with init_distributed(args.device) as ranks, _convert_out_of_memory("; try a smaller --batch"):
        for config in _configs(args, _open_unlabelled(args), [TOKENIZERS], args.fold):
            _train_tokenizers(config, ranks)
    return 0


def _train_tokenizers(config: TrainConfig, ranks: Ranks) -> None:
    """Run a training of tokenizers that is not finished."""
    setup = prepare_tokenizers(config, ranks, log_line)
    if not setup.is_finished():
        setup.log(
            f"{setup.data.name}, tokenizers, {_describe_speakers(config)}: recipe {config.recipe.name}, "
            f"on {ranks.device}; into {setup.folder}"
        )
    found = run_tokenizers(setup)
    if ranks.is_main:
        say(f"{found.model}: {describe_tokenizers(found)}")
        say(f"look at {found.page}; make shards of codes with make tokens WEIGHTS={found.model}")
        sys.stdout.flush()


def _run_tokens(args: argparse.Namespace) -> int:
    out = args.out or args.shards.with_name(_token_folder(args.shards, Path(args.weights)))
    device = device_for(args.device)
    job = TokensJob(shards=args.shards, weights=args.weights, out=out, workers=args.workers, device=device)
    with _convert_out_of_memory():
        made = make_tokens(job)
    size, before = made.bytes / max(made.clips, 1) / 1000, made.source_bytes / max(made.clips, 1) / 1000
    say(f"clips     {made.clips}, {size:.0f} kB each, of {before:.0f} kB as sequences")
    say(f"shards    {out} ({pluralize(len(made.dataset.shards), 'shard')}, {made.resumed} already made)")
    say(f"tokenizer {made.tokenizer}")
    return 0


def _token_folder(shards: Path, weights: Path) -> str:
    """Name of the folder of tokens: `demo-tokens-S08` of `runs/demo/tokenizers-S08/model`."""
    run = weights.resolve().parent.name if weights.name == RUN_MODEL else weights.resolve().name
    suffix = run.removeprefix(TOKENIZERS) if run.startswith(TOKENIZERS) else ""
    return f"{load_dataset(shards).dataset}-tokens{suffix}"


def _usable_folds(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The folds of a sweep, or those that were asked for, that have clips on all sides; and what the others lack.

    Raises UnusableFoldError if none has.
    """
    corpora = _open_corpora(args)
    schemes = choose_label_schemes(corpora, args.label_scheme)
    for part, scheme in zip(corpora.parts, schemes, strict=True):
        require_labels(part.folder, scheme)
    sides = ("train", "test") if args.fixed_epochs else SIDES
    names = [corpora.resolve_fold(fold) for fold in args.fold or corpora.folds]
    problems = {fold: corpora.describe_unusable(fold, schemes, sides) for fold in names}
    usable = [fold for fold in names if not problems[fold]]
    if not usable:
        raise unusable_fold(problems[names[0]], corpora, schemes, sides)
    return usable, [problem for problem in problems.values() if problem]


def _open_corpora(args: argparse.Namespace) -> Corpora:
    """The shards to train and to test on, and their folds."""
    if args.test and args.fold:
        raise ConfigError(f"fold: found {', '.join(args.fold)}, expected none with --test, which tests whole corpora")
    return open_corpora(
        _locations(args),
        schemes=args.fold_scheme or (),
        tests=[_find_test(name) for name in args.test or ()],
        allow_shared_speakers=args.allow_shared_speakers,
    )


def _locations(args: argparse.Namespace) -> list[str | Path]:
    """The folders of shards to train on, by address or by the names of their corpora."""
    return args.shards or [find_folder(_SHARDS, name) for name in args.dataset or [None]]


def _find_test(name: str) -> str | Path:
    """Shards of a corpus that is tested: of a folder or an address, or those of a corpus of that name."""
    is_location = is_remote(name) or (Path(name) / DATASET_FILE).is_file()
    return name if is_location else find_folder(_SHARDS, name, "TEST= (--test)")


def _topic(dataset: str, tests: Sequence[str], protocol: RunProtocol) -> tuple[str, ...]:
    """Corpora that were trained on, and those tested as a whole, label scheme and fold scheme."""
    return dataset, *tests, protocol.label_scheme, protocol.fold_scheme


def _train_all(
    args: argparse.Namespace, strategies: Sequence[str], folds: Sequence[str] | None
) -> set[tuple[str, ...]]:
    """Train strategies on folds, on the first if None, except for finished runs.

    The topics of the runs, as of `_topic`; none in other processes than the main one.
    """
    check_loggers(args.logger)
    with (
        init_distributed(args.device) as ranks,
        _convert_out_of_memory(f"; try --micro-batches {2 * args.micro_batches}"),
    ):
        described, topics = set[str](), set[tuple[str, ...]]()
        for config in _configs(args, _open_corpora(args), strategies, folds):
            topics.add(_train_one(config, ranks, described))
        return topics if ranks.is_main else set()


def _train_one(config: TrainConfig, ranks: Ranks, described: set[str]) -> tuple[str, ...]:
    """Train a run that is not finished, and describe its fold, unless that was done; the topic of the run."""
    setup = prepare(config, ranks, log_line)
    if not setup.is_finished():
        protocol = setup.protocol
        tests = setup.data.corpora.tests
        tested = f"tested on {' and '.join(tests)}" if tests else f"fold {config.fold}"
        frames = f", every frame ({protocol.windows})" if protocol.windows else ""
        setup.log(
            f"{setup.data.name}, {config.strategy}, {tested}: recipe {protocol.recipe}, "
            f"encoder {protocol.encoder}, {protocol.feature}{frames}, on {ranks.device}; into {setup.folder}"
        )
        if config.fold not in described:
            setup.log("\n".join(setup.data.describe_classes()))
        described.add(config.fold)
        _log_cost_estimate(setup)
    result = run_fold(setup)
    if ranks.is_main and result:
        say(_describe_run(result, setup.data.corpora.describe_fold(config.fold)))
        for corpus in result.scores.corpora if len(result.scores.corpora) > 1 else ():
            say(f"  {corpus}: {_describe_scores(result.scores.of_corpus(corpus))}")
        sys.stdout.flush()
    return _topic(setup.data.name, setup.data.corpora.tests, setup.protocol)


def _configs(
    args: argparse.Namespace, corpora: Corpora, strategies: Sequence[str], folds: Sequence[str] | None
) -> list[TrainConfig]:
    """A configuration for each strategy and fold, with the corpus's defaults."""
    for strategy in TOKEN_STRATEGIES.keys() & strategies:
        _refuse(args, "feature", why=f" with {strategy}: it reads codes, and no spectrograms")
    trained = [part for part in corpora.parts if "train" in part.sides]
    tested = [part for part in corpora.parts if part not in trained]
    demo = {part.name for part in trained} == {DEMO}
    shards: str | tuple[str, ...] = tuple(part.folder.location for part in trained)
    schemes = tuple(part.scheme_setting for part in trained) if args.fold_scheme else None
    if len(trained) == 1:  # as the user has named it
        shards = str(_locations(args)[0])
        schemes = args.fold_scheme[0] if args.fold_scheme else None
    refit = args.refit == "1" or (args.refit is None and args.command == "sweep")
    selection = "last" if args.fixed_epochs else "refit" if refit else "validation"
    copied = ("label_scheme", "allow_shared_speakers", "weights", "tokenizers", "runs", "workers", "device")
    options = {name: getattr(args, name) for name in (*copied, "micro_batches", "save_steps", "check", "compile")}
    return [
        TrainConfig(
            shards=shards,
            tests=tuple(part.folder.location for part in tested),
            fold_scheme=schemes,
            strategy=strategy,
            fold=corpora.resolve_fold(fold),
            feature=choose_feature(args.feature, corpora.features),
            encoder=args.encoder or _default_encoder(args, strategy, demo=demo),
            recipe=_recipe(args, demo=demo, strategy=strategy),
            selection=selection,
            seed=seed,
            loggers=tuple(args.logger),
            **options,
        )
        for seed in range(args.seed, args.seed + args.seeds)
        for strategy in strategies
        for fold in folds or corpora.folds[:1]
    ]


def _default_encoder(args: argparse.Namespace, strategy: str, *, demo: bool) -> str | None:
    """None where weights say which, and for tokenizers."""
    if args.weights or args.command == TOKENIZERS:
        return None
    return DEMO_DEFAULT if demo else MODEL_DEFAULT if strategy in TOKEN_STRATEGIES else ENCODER_DEFAULT


def choose_feature(name: str | None, built: Sequence[str]) -> str:
    """The spectrogram that is named, else the only one that was built, else the default."""
    return name or (built[0] if len(built) == 1 else FEATURE_DEFAULT)


def _recipe(args: argparse.Namespace, *, demo: bool, strategy: str = "cfas") -> Recipe:
    """The recipe of `--recipe`, or the corpus's default, with the settings that replace its own."""
    tiny = demo and args.weights is None and args.encoder in (None, DEMO_DEFAULT)
    alone = strategy in STRATEGIES and len(STRATEGIES[strategy].modality) == 1
    defaults = {"pretrain": "videomae" if alone else "fused", TOKENIZERS: TOKENIZERS}
    name = args.recipe or (DEMO_DEFAULT if tiny else defaults.get(args.command, "finetune"))
    if args.recipe is None and strategy in TOKEN_STRATEGIES:
        name = f"{MODEL_DEFAULT}-{DEMO_DEFAULT}" if demo and args.encoder in (None, DEMO_DEFAULT) else MODEL_DEFAULT
    prefixed = f"{args.command}-{name}"
    recipe = recipe_named(prefixed if args.command in _PREFIXED and prefixed in RECIPES else name)
    if args.batch is not None:
        recipe = override(recipe, [f"batch={args.batch}"]) if args.batch < 1 else recipe.with_batch(args.batch)
    short = {"epochs": args.epochs, "learning_rate": args.learning_rate}
    short |= {f"vq_mae.{field}": getattr(args, field) for field in ("head", "depth", "fusion")}
    settings = [f"{name}={value}" for name, value in short.items() if value is not None]
    return override(recipe, [*settings, *args.set])


def _show_recipe(args: argparse.Namespace, strategy: str = "cfas") -> int:
    """Print the recipe of a training; of the demo corpus where local shards say so, or a name or an address does."""
    named = {*args.dataset} if args.dataset else set[str]()
    if args.shards:
        folders = [Path(location) for location in args.shards]
        named = {load_dataset(each).dataset if (each / DATASET_FILE).is_file() else each.name for each in folders}
    sys.stdout.write(dump_toml(_recipe(args, demo=named == {DEMO}, strategy=strategy)))
    return 0


def _log_cost_estimate(setup: TrainingSetup) -> None:
    """On a CPU, with an encoder for GPUs, log how long the training takes."""
    config, recipe, ranks = setup.config, setup.config.recipe, setup.ranks
    if ranks.device.type != "cpu" or config.encoder == DEMO_DEFAULT or config.has_own_encoder:
        return
    forward = cost.forward_flop(setup.model.encoder.config)
    clips = {side: setup.data.count(side) for side in ("train", "validation", "test")}
    passes = recipe.epochs * (cost.TRAINING_PASSES * clips["train"] + clips["validation"]) + clips["test"]
    work = forward * (sum(clips.values()) if recipe.freeze_encoder else passes)
    flops = cost.measure_flops(ranks.device) * ranks.world_size
    setup.log(
        f"on this CPU, which multiplies matrices at {flops / 1e9:.0f} GFLOP/s, {recipe.name} of {config.encoder} takes "
        f"{cost.format_duration(work / flops)} or more ({forward / 1e12:.2f} TFLOP for each clip's forward pass, "
        f"{work / 1e12:,.0f} in all); use --encoder tiny or a GPU"
    )


@contextmanager
def _convert_out_of_memory(advice: str = "") -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"{str(error).splitlines()[0]}{advice}") from error


def _run_predict(args: argparse.Namespace) -> int:
    """Exit status 1 if a recording cannot be used."""
    if bool(args.clips) == bool(args.shards):
        raise ConfigError("predict: expected either recordings (make: CLIP=) or --shards (make: SHARDS=)")
    if args.out and not args.format:
        format_for(Path(args.out))  # before anything is computed
    predictor = predict.Predictor.load(args.folder, args.device, encoder=args.encoder, strategy=args.strategy)
    with _convert_out_of_memory():
        if args.shards:
            predictions = predictor.predict_shards(args.shards, speakers=args.speaker or (), workers=args.workers)
        else:
            predictions = predictor(args.clips, workers=args.workers)
    if args.out:
        predict.write_predictions(Path(args.out), predictor, predictions, args.format or "")
    kind = "table" if args.out else args.format or "table"
    sys.stdout.write(format_clips(kind, predictor.classes, predictions, probabilities=args.probabilities))
    failed = sum(prediction.probabilities is None for prediction in predictions)
    totals = [f"{len(predictions) - failed} classified, {failed} not built"] if failed else []
    for line in (*_describe_unseen(predictor, predictions), *totals):
        (say if kind == "table" else log_line)(line)  # a program reads the other formats
    return int(failed > 0)


def _describe_unseen(predictor: predict.Predictor, predictions: Sequence[ClipPrediction]) -> Iterator[str]:
    """The scores of labelled clips."""
    scores, seen = predict.score_unseen(predictor, predictions)
    if seen:
        yield f"not scored: {seen} clips of speakers that the classifier was trained or selected on"
    if scores:
        clips, speakers = pluralize(scores.clips, "clip"), ", ".join(scores.speakers)
        yield f"{_describe_scores(scores)}; {clips} of unseen speakers ({speakers})"


def _run_embeddings(args: argparse.Namespace) -> int:
    out = Path(args.out)
    embeddings.check_file(out)
    if bool(args.folder) == bool(args.weights):
        raise ConfigError("embeddings: expected --run with a folder, or --weights with --strategy")
    chosen = {name: getattr(args, name) or "" for name in ("encoder", "strategy", "feature")}
    if args.folder and (
        others := [f"--{name}" for name, value in chosen.items() if value and not is_import_path(value)]
    ):
        raise ConfigError(f"embeddings: found {', '.join(others)} with --run, which has its own; leave it out")
    if args.weights and not args.strategy:
        raise ConfigError(f"embeddings: found no strategy, expected --strategy with one of {', '.join(STRATEGIES)}")
    own = {"encoder": args.encoder, "strategy": args.strategy}
    predictor = predict.Predictor.load(args.folder, args.device, **own) if args.folder else None
    corpora = [args.dataset] if args.dataset else list(predictor.provenance.corpora) if predictor else [None]
    if len(corpora) > 1 and not args.shards:
        raise ConfigError(
            f"embeddings: found a run on {len(corpora)} corpora, expected the one to compute vectors of: DATASET= "
            f"(--dataset), such as {shorten_list(corpora)}"
        )
    folder = open_folder(args.shards or find_folder(Path("shards"), corpora[0]))
    if predictor:
        encoder = embeddings.EmbeddingModel.of_run(predictor, args.folder)
        provenance = predictor.provenance
        if provenance.test_flip or provenance.test_crop_side < 1 or provenance.test_windows > 1:
            log_line(f"{args.folder}: predictions also see mirrored faces, or parts of clips; vectors see whole faces")
    else:
        feature = choose_feature(args.feature, folder.index.features)
        encoder = embeddings.EmbeddingModel.of_weights(args.weights, args.encoder, args.strategy, feature)
    schemes = {"fold_scheme": args.fold_scheme, "label_scheme": args.label_scheme}
    with _convert_out_of_memory():
        ranks = Ranks(device=device_for(args.device))
        found = embeddings.compute_embeddings(encoder, folder, ranks, layer=args.layer, workers=args.workers, **schemes)
    embeddings.write_embeddings(out, found)
    if seen := found.settings["seen_speakers"]:
        log_line(f"the weights were trained or selected on {shorten_list(seen)}: their clips are not unseen")
    say(f"{out}: {pluralize(len(found.clips), 'vector')} of {found.vectors.shape[1]} numbers")
    return 0


def _run_export(args: argparse.Namespace) -> int:
    own = {"encoder": args.encoder, "strategy": args.strategy}
    result = export(Path(args.folder), Path(args.out), form=args.format, **own)
    say(f"{args.out}: {_describe_run(result)}")
    say(f"use it with make predict RUN={args.out}, or as initial weights with make train WEIGHTS={args.out}")
    return 0


def _run_report(args: argparse.Namespace) -> int:
    for path in write_report(Path(args.runs), Path(args.out or Path(args.runs) / "report")):
        say(str(path))
    if not runs.finished_runs(Path(args.runs)):
        log_line(f"{args.runs}: found no finished run; start one with `make train` or `make sweep`")
    return 0


def _run_recipes(args: argparse.Namespace) -> int:
    for line in (format_tables() if args.table else describe_recipes()).splitlines():
        say(line)
    return 0


def _describe_run(result: RunResult, fold: str = "") -> str:
    run, scores = result.run, result.scores
    shared = run.protocol.shared_speakers
    speakers = pluralize(len(scores.speakers), "speaker" if shared else "unseen speaker")
    seen = ", who may be in training, too" if shared else ""
    names = shorten_list(scores.speakers) if run.reads_several else ", ".join(scores.speakers)
    clips = f"{pluralize(scores.clips, 'clip')} of {speakers} ({names}){seen}"
    epoch = f"epoch {run.epoch} of {run.epochs} (selection: {run.protocol.selection})"
    tested = f"tested on {run.tested}" if run.tests else f"fold {fold or run.fold}"
    return f"{run.dataset}, {run.strategy}, {tested}: {_describe_scores(scores)}; {clips}; {epoch}"


def _describe_summary(summary: RunSummary) -> str:
    run, done = summary.run, len(summary.folds)
    means = ", ".join(
        f"{name} {100 * spread.mean:.2f}" + (f" ± {100 * spread.std:.2f} %" if spread.std is not None else " %")
        for name, spread in (("UAR", summary.uar), ("WAR", summary.war))
    )
    folds = f"tested on {run.tested}" if run.tests else f"{done} of {len(run.protocol.folds)} folds"
    if len(summary.seeds) > 1:
        folds += f", {len(summary.seeds)} seeds (UAR ± {100 * (summary.uar_over_seeds.std or 0):.2f} over them)"
    return f"{run.dataset}, {run.strategy}, {folds}: {means}; pooled {_describe_scores(summary.pooled)}"


def _describe_scores(scores: FoldScores) -> str:
    values = f"UAR {100 * scores.uar:.2f} %", f"WAR {100 * scores.war:.2f} %"
    interval = scores.interval
    if interval is None:
        return ", ".join(values)
    spans = [f" ({100 * low:.2f} to {100 * high:.2f})" for low, high in (interval.uar, interval.war)]
    described = ", ".join(value + span for value, span in zip(values, spans, strict=True))
    narrow = " (too narrow for so few)" if len(scores.speakers) < MIN_SPEAKERS else ""
    return f"{described}, {100 * interval.level:.0f} % intervals over speakers{narrow}"


def _parser() -> Parser:
    parser = Parser(
        prog="python -m train",
        description="Train, evaluate and use classifiers. Without a command, train.",
        epilog="Exit status: 0 done, 1 completed with problems, 2 error, 130 interrupted.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_training_options(add_command(commands, "train", _run_train, "Train one strategy on one fold."))
    _add_training_options(add_command(commands, "sweep", _run_sweep, "Train strategies on folds."))
    _add_training_options(add_command(commands, "pretrain", _run_pretrain, "Pre-train an encoder, without labels."))
    _add_training_options(
        add_command(commands, TOKENIZERS, _run_tokenizers, "Train VQ-MAE-AV's tokenizers on sequences, without labels.")
    )
    command = add_command(commands, "tokens", _run_tokens, "Write shards of the codes that tokenizers give sequences.")
    command.add_argument("shards", type=folder_path, metavar="SHARDS", help="finished shards of sequences")
    command.add_argument("--weights", required=True, help="folder of tokenizers, or of the run that trained them")
    command.add_argument(
        "--out", type=folder_path, help="folder to write; beside SHARDS, such as demo-tokens-S08, if not given"
    )
    command.add_argument("--workers", type=int, default=2, help="threads; do not change the result")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    command = add_command(commands, "report", _run_report, "Compare all runs with the paper's tables.")
    command.add_argument("--runs", default="runs", help="folder of all runs")
    command.add_argument("--out", help="folder of the report; runs/report if not given")
    command = add_command(commands, "predict", _run_predict, "Classify recordings or shards with a trained classifier.")
    command.add_argument(
        "clips", nargs="*", metavar="clip.mp4", help="recordings, folders of them, or patterns; they need the builder"
    )
    command.add_argument(
        "--run", dest="folder", metavar="FOLDER", required=True, help="a finished run, or an exported one"
    )
    _add_own_code(command)
    command.add_argument("--shards", help="folder of shards, or its address, in place of recordings")
    command.add_argument("--speaker", nargs="+", help="only these speakers of the shards")
    command.add_argument(
        "--out", help="write the predictions to a file, too: JSON if its name ends with .json, CSV for .csv and .txt"
    )
    command.add_argument("--format", choices=FORMATS, help="of --out, or without it of what is printed; a table")
    command.add_argument("--probabilities", action="store_true", help="print the probabilities of all classes")
    command.add_argument("--workers", type=int, default=2, help="decoding threads")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    _add_embedding_options(
        add_command(commands, "embeddings", _run_embeddings, "Write vectors of an encoder for other tools.")
    )
    command = add_command(commands, "export", _run_export, "Write a finished run as a folder to share.")
    command.add_argument("--run", dest="folder", metavar="FOLDER", required=True, help="folder of the run")
    _add_own_code(command)
    command.add_argument("--out", required=True, help="folder to write")
    command.add_argument("--format", choices=EXPORT_FORMATS, help="also write the classifier in this format")
    command = add_command(commands, "recipes", _run_recipes, "List the recipes.")
    command.add_argument("--table", action="store_true", help="compare the published recipes with ours, in Markdown")
    return parser


def _add_embedding_options(command: Parser) -> None:
    command.add_argument("--run", dest="folder", metavar="FOLDER", help="a finished run, or an exported one")
    command.add_argument("--weights", help="in place of a run: file, folder or hub id of weights")
    command.add_argument(
        "--encoder", help=f"of --weights: {', '.join(ENCODERS)}, or the one that fits; of --run: your own, MODULE:NAME"
    )
    command.add_argument(
        "--strategy", help=f"with --weights: {', '.join(STRATEGIES)}; or your own, MODULE:NAME, as with --run"
    )
    command.add_argument("--feature", help=f"with --weights: the only one that was built, or {FEATURE_DEFAULT}")
    command.add_argument("--dataset", help="corpus: shards/<dataset>; that of the run if not given")
    command.add_argument("--shards", help="folder of shards, or its address, in place of --dataset")
    command.add_argument("--layer", type=int, help="block, from 1, or 0; the input of the classifier if not given")
    command.add_argument("--fold-scheme", help="that of the run, or the corpus's default, if not given")
    command.add_argument("--label-scheme", help="that of the run, or the corpus's default, if not given")
    command.add_argument("--out", required=True, help="file to write: .npz or .parquet")
    command.add_argument("--workers", type=int, default=2, help="decoding threads; do not change the result")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _add_own_code(command: Parser) -> None:
    for name in ("encoder", "strategy"):
        command.add_argument(f"--{name}", metavar="MODULE:NAME", help=f"of a run with a {name} of your own: its code")


def _add_training_options(command: Parser) -> None:
    group = command.add_argument_group("data")
    group.add_argument(
        "--dataset", nargs="+", help="corpus: shards/<dataset>; the only one built if not given; or several together"
    )
    group.add_argument("--shards", nargs="+", help="folders of shards, or their addresses, in place of --dataset")
    group.add_argument(
        "--test", nargs="+", help="in place of a fold, all clips of other corpora: name, folder of shards or address"
    )
    group.add_argument(
        "--strategy", nargs="+", help=f"cfas, or your own, MODULE:NAME; in a sweep all of {', '.join(STRATEGIES)}"
    )
    group.add_argument(
        "--model",
        nargs="+",
        dest="strategy",
        choices=TOKEN_STRATEGIES,
        help="in place of --strategy, a VQ-MAE-AV, or its version for sound or faces alone, of shards of tokens",
    )
    group.add_argument(
        "--fold", nargs="+", help="name of the test fold, or its number if names are none; the first, in a sweep all"
    )
    own = "name, or a table of one's own (.csv); the corpus's default if not given"
    group.add_argument("--fold-scheme", nargs="+", help=f"{own}; of several corpora one for each")
    group.add_argument("--label-scheme", help=f"{own}; of several corpora their common classes")
    shared = "accept a table of folds that has speakers on several sides of one; reports say so"
    group.add_argument("--allow-shared-speakers", action="store_true", help=shared)
    group.add_argument("--feature", help=f"spectrogram; the only one that was built, or {FEATURE_DEFAULT}")
    group.add_argument("--check", choices=("hashes", "sizes"), default="hashes", help="what is checked of local shards")
    group = command.add_argument_group("model and recipe")
    group.add_argument(
        "--encoder",
        help=f"{', '.join(ENCODERS)}, or your own, MODULE:NAME; that of the weights, {ENCODER_DEFAULT}, or tiny for "
        "the demo",
    )
    group.add_argument("--weights", help="file, folder, run or hub id of initial weights; random if not given")
    group.add_argument("--tokenizers", help="of --model: the folder of its tokenizers, whose codebooks it begins with")
    group.add_argument("--head", choices=HEADS, help="of --model: short for --set vq_mae.head=")
    group.add_argument("--depth", type=int, help="of --model: blocks of the encoder; short for --set vq_mae.depth=")
    group.add_argument("--fusion", help="of --model: saf-saf, caf-saf, saf-caf or caf-caf, of encoder and decoder")
    group.add_argument("--recipe", help=f"{', '.join(RECIPES)}, or a TOML file; finetune, or tiny for the demo corpus")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="replace a value of the recipe, such as layer_decay=0.8 or augmentation.mixup=0; repeatable",
    )
    group.add_argument("--show-recipe", action="store_true", help="print the recipe as TOML and exit")
    group.add_argument("--epochs", type=int, help="in place of the recipe's epochs or steps")
    group.add_argument("--batch", type=int, help="clips a step; the recipe's learning rate is scaled with it")
    group.add_argument("--learning-rate", type=float, help="in place of the recipe's")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--seeds", type=int, default=1, help="train with so many seeds, from --seed on")
    how = group.add_mutually_exclusive_group()
    refit = "after the epoch is selected, train again with the validation speakers; default in a sweep (0: not)"
    how.add_argument("--refit", nargs="?", const="1", choices=("0", "1"), help=refit)
    how.add_argument("--fixed-epochs", action="store_true", help="train on validation speakers too, select no epoch")
    group = command.add_argument_group("execution")
    group.add_argument("--runs", default="runs", help="folder of all runs")
    group.add_argument("--workers", type=int, default=2, help="decoding threads; do not change the result")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--micro-batches", type=int, default=1, help="micro-batches a step, to use less memory")
    group.add_argument("--save-steps", type=int, default=500, help="steps between checkpoints")
    group.add_argument("--logger", nargs="+", choices=LOGGERS, default=[], help="where numbers go, beside log.jsonl")
    group.add_argument("--compile", choices=("auto", "on", "off"), default="auto", help="auto compiles on a GPU")
