"""What a recipe says, and which values it may have."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from manifests.errors import UserError
from train.data.augment import NO_AUGMENTATION, Augmentation, TransformError
from train.data.masks import MaskSettings
from train.data.token_masks import TokenMaskSettings
from train.models.vq_mae_av import FUSIONS, WINDOW_SECONDS
from train.models.vq_mae_heads import HEADS

LOSSES = ("cross-entropy", "asymmetric")
SCHEDULES = ("cosine", "constant")
CLASS_WEIGHTS = ("none", "balanced")
SAMPLING = ("shuffle", "balanced", "balanced-corpora")
#: Field -> the texts that it may be.
CHOICES = {"loss": LOSSES, "schedule": SCHEDULES, "class_weights": CLASS_WEIGHTS, "sampling": SAMPLING}
#: Numbers of test crops: the whole face, or centre and corners.
TEST_CROPS = (1, 5)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}")
_MOST = 1 << 31


class RecipeError(UserError):
    """An unknown recipe or field, a value out of range, or settings that contradict each other."""


@dataclass(frozen=True, kw_only=True)
class Pretraining(MaskSettings):
    """What masked pre-training has that a classifier's training has not. Raises TransformError."""

    decoder_depth: int | None = None
    """Blocks of the decoder; None for those of VideoMAE's official models."""
    motion: bool = False
    """Whether, of each tubelet, the first frame and the difference of the others to it are predicted (MAE-DFER)."""
    within_instants: bool = False
    """Whether a decoder with random weights at first attends within the instant: see `train.models.instants`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_depth is not None and not 1 <= self.decoder_depth <= 64:
            raise TransformError(f"decoder_depth: found {self.decoder_depth}, expected 1 to 64")


@dataclass(frozen=True, kw_only=True)
class Tokenizing:
    """What a training of VQ-MAE-AV's tokenizers has that a classifier's has not. Raises RecipeError."""

    audio_residual_layers: int = 1
    """As of `train.models.vqvae.AudioTokenizerConfig`."""
    visual_hidden: int = 128
    """As of `train.models.vqvae.VisualTokenizerConfig`, as the next."""
    visual_residual_hidden: int = 64
    spectra: int = 64
    """Power spectra of a clip in a step, drawn from all it has."""
    faces: int = 4
    """Faces of a clip in a step, evenly spaced over its window: 1, 2, 4, 8 or 16."""
    commitment: float = 0.25
    """Factor of the distance between latents and their codes in the loss."""
    decay: float = 0.99
    """Of the moving averages that codes follow, as the next: see `train.models.codebook`."""
    dead_share: float = 0.1
    calibration_spectra: int = 8192
    """Spectra of training clips that batch norms get the statistics of."""
    fixed_share: float = 0.2
    """Share of the epochs, the last ones, in which the encoder of sound and all norms stay as they are, calibrated; its
    codebook starts again, and is trained with the decoder only."""

    def __post_init__(self) -> None:
        rules = {
            "audio_residual_layers": (1 <= self.audio_residual_layers <= 16, "1 to 16"),
            "visual_hidden": (2 <= self.visual_hidden <= 4096 and self.visual_hidden % 2 == 0, "even, 2 to 4096"),
            "visual_residual_hidden": (1 <= self.visual_residual_hidden <= 4096, "1 to 4096"),
            "spectra": (1 <= self.spectra <= 65536, "1 to 65536"),
            "faces": (self.faces in (1, 2, 4, 8, 16), "1, 2, 4, 8 or 16"),
            "commitment": (0 <= self.commitment < math.inf, "0 or more"),
            "decay": (0 <= self.decay < 1, "0 to below 1"),
            "dead_share": (0 < self.dead_share < 1, "above 0, below 1"),
            "fixed_share": (0 <= self.fixed_share < 1, "0 to below 1"),
            "calibration_spectra": (2 <= self.calibration_spectra <= 1 << 20, "2 to 1048576"),
        }
        for name, (satisfied, expected) in rules.items():
            if not satisfied:
                raise RecipeError(f"tokenizers: {name}: found {getattr(self, name)}, expected {expected}")


@dataclass(frozen=True, kw_only=True)
class VqMae:
    """Shape of a VQ-MAE-AV, as far as it differs from that of its name, and its head. Raises RecipeError."""

    depth: int | None = None
    """Blocks of the encoder; None for those of the model that is named, or of the weights."""
    fusion: str | None = None
    """Fusion of encoder and decoder, such as `caf-saf`; None for `saf-saf`, or that of the weights."""
    head: str = "attention"
    """How a classifier makes one vector of all tokens: `mean`, `attention` or `query2emo`."""

    def __post_init__(self) -> None:
        fusions = [f"{encoder}-{decoder}" for encoder in FUSIONS for decoder in FUSIONS]
        if self.depth is not None and not 1 <= self.depth <= 64:
            raise RecipeError(f"vq_mae: depth: found {self.depth}, expected 1 to 64")
        if self.fusion is not None and self.fusion not in fusions:
            raise RecipeError(f"vq_mae: fusion: found {self.fusion[:80]!r}, expected one of {', '.join(fusions)}")
        if self.head not in HEADS:
            raise RecipeError(f"vq_mae: head: found {self.head[:80]!r}, expected one of {', '.join(HEADS)}")


@dataclass(frozen=True, kw_only=True)
class TokenPretraining(TokenMaskSettings):
    """What the pre-training of a VQ-MAE-AV minimizes. Raises TransformError."""

    generative: float = 1.0
    """Weight of the cross-entropy of hidden codes; with 0 there is no decoder."""
    contrastive: float = 1.0
    """Weight of the contrastive loss between both modalities' global tokens; with 0 there are none."""
    temperature: float = 0.5
    """Of the contrastive loss."""
    separate: bool = False
    """Whether a global token is of a pass that sees its modality only, a pass for each. The paper's are of the pass
    with coupled masks, where the encoder can tell either modality what the other one is."""
    within_instants: bool = False
    """Whether a decoder with random weights at first attends within the instant: see `train.models.instants`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        weights, most = (self.generative, self.contrastive), 1000
        if not all(0 <= weight <= most for weight in weights) or not any(weights):
            raise TransformError(f"generative, contrastive: found {weights}, expected 0 to {most}, one above 0")
        if not 0 < self.temperature <= most:
            raise TransformError(f"temperature: found {self.temperature}, expected above 0, up to {most}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a classifier, a masked autoencoder (with `pretraining`) or tokenizers (with `tokenizers`) are trained.

    Raises RecipeError for invalid values.

    The length is given either in epochs or in optimizer steps. Steps make small and large corpora comparable: what a
    pre-trained encoder can unlearn and learn is the sum of its learning rates over steps, whatever an epoch is.
    """

    name: str
    epochs: int | None = None
    """Epochs, or None where `steps` is given."""
    steps: int | None = None
    """Optimizer steps, at least: as many whole epochs are trained as they take."""
    batch: int
    """Clips of an optimizer step, over all ranks and micro-batches."""
    learning_rate: float
    """Peak learning rate of the last layer, at this batch size."""
    min_learning_rate: float = 0.0
    """Learning rate of the last layer at the end of the schedule `cosine`."""
    schedule: str = "cosine"
    """One of `SCHEDULES`: after warm-up the learning rate falls to its minimum in half a cosine, or stays."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises linearly from 0."""
    warmup_steps: int = 0
    """The same in optimizer steps, instead."""
    layer_decay: float = 1.0
    """Factor between the learning rates of a block and of the one above it."""
    weight_decay: float = 0.05
    """Of AdamW, for matrices; biases, norms and positions have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    max_grad_norm: float | None = None
    """Maximum norm of a step's gradient; None for no limit."""
    label_smoothing: float = 0.0
    """Share of the label that is spread evenly over all classes."""
    class_weights: str = "none"
    """One of `CLASS_WEIGHTS`. `balanced`: a clip's loss is multiplied by the inverse frequency of its class among the
    training clips, scaled such that the mean over these is 1; of a mixed clip by the mean of both, in their shares."""
    corpus_weights: tuple[str, ...] = ()
    """With `sampling = "balanced-corpora"`, how often clips of a corpus are drawn relative to the others, such as
    `["voxceleb2=3", "mead=1"]`; 1 for a corpus that is not named."""
    sampling: str = "shuffle"
    """One of `SAMPLING`: each clip once an epoch; or, in an epoch of the same length, each class equally often, or each
    of several corpora."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block."""
    head_dropout: float = 0.0
    """Dropout rate of the last layer's inputs."""
    head_init_scale: float = 1.0
    """Factor of the last layer's initial weights."""
    drop_last: bool = False
    """Whether the clips that do not fill a step are left out of an epoch, others in each."""
    repeated_augmentation: int = 1
    """Draws of every clip in a step: that many times `batch` inputs, each augmented in its own way."""
    validation_steps: int = 0
    """Optimizer steps between validations, at least, in whole epochs; 0 validates after each epoch."""
    test_flip: bool = False
    """Whether a test clip is also seen mirrored; the probabilities of all views are averaged."""
    test_crops: int = 1
    """Views of a test clip's faces: 1, a square at the centre, or 5, also in the corners."""
    test_crop_side: float = 1.0
    """Side of these squares, in validation too, in sides of a face. With 1 a test shows faces smaller than the random
    crops of training do on average (Touvron et al., "Fixing the train-test resolution discrepancy", 2019)."""
    window_seconds: float = 0.0
    """Longest window in time of a clip that is seen, in training and tests; 0 for the whole clip. Of shards with every
    frame."""
    test_windows: int = 1
    """Windows of a test clip, evenly spaced; the probabilities of all views are averaged. A single one is centred."""
    freeze_encoder: bool = False
    """Only LayerNorm and Linear are trained, on features that are computed once."""
    freeze: tuple[str, ...] = ()
    """Glob patterns of the names of parameters that are not trained, such as `encoder.blocks.[0-9].*`."""
    gradient_checkpointing: bool = False
    """Activations are recomputed in the backward pass: a third more work for much less memory."""
    training_share: float = 1.0
    """Share of the labelled training clips of each class that is used, at least one: which ones follows from the seed.
    Normalization statistics are of all."""
    augmentation: Augmentation = NO_AUGMENTATION
    pretraining: Pretraining | None = None
    """Of masked pre-training, which uses no labels; None for a classifier."""
    vq_mae: VqMae | None = None
    """Of a VQ-MAE-AV, which reads shards of tokens; None for other models."""
    token_pretraining: TokenPretraining | None = None
    """Of a VQ-MAE-AV's pre-training, which uses no labels; None for a classifier."""
    loss: str = "cross-entropy"
    """Of a classifier, one of `LOSSES`: see `train.models.vq_mae_losses.asymmetric_loss`."""
    tokenizers: Tokenizing | None = None
    """Of VQ-MAE-AV's tokenizers, which use no labels; None for others."""

    def __post_init__(self) -> None:
        given = self.augmentation
        asymmetric = self.loss == "asymmetric"
        weights_off = self.class_weights == "none"
        whole_face = not self.test_flip and self.test_crops == 1 and self.test_crop_side == 1
        one_view = whole_face and self.test_windows == 1
        in_use = "warmup_steps" if self.warmup_steps else "warmup_epochs"
        warmup, length = getattr(self, in_use), self.steps if self.warmup_steps else self.epochs
        rules = [
            ("name", _NAME.fullmatch(self.name), "1 to 80 letters, digits and . _ + -, a letter or digit first"),
            ("steps", (self.epochs is None) != (self.steps is None), "either epochs or steps"),
            ("epochs", self.epochs is None or 1 <= self.epochs <= _MOST, "at least 1"),
            ("steps", self.steps is None or 1 <= self.steps <= _MOST, "at least 1"),
            ("batch", 1 <= self.batch <= _MOST, "at least 1 clip a step"),
            ("batch", self.batch % 2 == 0 or not given.mixes, "an even batch, for the pairs that are mixed"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "a number above 0"),
            ("min_learning_rate", 0 <= self.min_learning_rate <= self.learning_rate, "0 up to learning_rate"),
            ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("warmup_epochs", 0 <= self.warmup_epochs < math.inf, "0 or more"),
            ("warmup_steps", 0 <= self.warmup_steps <= _MOST, "0 or more"),
            ("warmup_steps", not (self.warmup_epochs and self.warmup_steps), "either warmup_epochs or warmup_steps"),
            (in_use, length is None or warmup < length, "less than the whole training"),
            ("layer_decay", 0 < self.layer_decay <= 1, "above 0, up to 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 to below 1"),
            ("max_grad_norm", self.max_grad_norm is None or self.max_grad_norm > 0, "above 0, or none"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "0 to below 1"),
            ("class_weights", self.class_weights in CLASS_WEIGHTS, f"one of {', '.join(CLASS_WEIGHTS)}"),
            ("loss", self.loss in LOSSES, f"one of {', '.join(LOSSES)}"),
            ("class_weights", weights_off or not asymmetric, "none with loss = asymmetric"),
            ("sampling", self.sampling in SAMPLING, f"one of {', '.join(SAMPLING)}"),
            (
                "sampling",
                self.sampling != "balanced" or weights_off,
                f"shuffle with class_weights = {self.class_weights}; both balance the classes: use only one of them",
            ),
            (
                "corpus_weights",
                not self.corpus_weights
                or (self.sampling == "balanced-corpora" and self.weights_of_corpora is not None),
                'texts such as "mead=2", each corpus once, above 0, with sampling = balanced-corpora',
            ),
            ("freeze", all(self.freeze), "patterns of names of parameters"),
            ("drop_path", 0 <= self.drop_path < 1, "0 to below 1"),
            ("head_dropout", 0 <= self.head_dropout < 1, "0 to below 1"),
            ("head_init_scale", 0 < self.head_init_scale <= 1000, "above 0, up to 1000"),
            ("repeated_augmentation", 1 <= self.repeated_augmentation <= 64, "1 to 64"),
            ("training_share", 0 < self.training_share <= 1, "above 0, up to 1"),
            ("validation_steps", 0 <= self.validation_steps <= _MOST, "0 or more"),
            ("test_crops", self.test_crops in TEST_CROPS, f"one of {', '.join(map(str, TEST_CROPS))}"),
            ("test_crop_side", 0.5 <= self.test_crop_side <= 1, "0.5 to 1"),
            ("test_crop_side", self.test_crops == 1 or self.test_crop_side < 1, "below 1 with several test_crops"),
        ]
        rules += [
            ("window_seconds", self.window_seconds == 0 or 0.1 <= self.window_seconds <= 3600, "0, or 0.1 to 3600"),
            ("test_windows", 1 <= self.test_windows <= 64, "1 to 64"),
            (
                "test_windows",
                self.test_windows == 1 or self.window_seconds > 0,
                "1 without window_seconds: all windows of a whole clip are the same",
            ),
        ]
        if self.freeze_encoder:
            rules += [
                ("augmentation", given == NO_AUGMENTATION, "none with freeze_encoder"),
                ("drop_path", self.drop_path == self.head_dropout == 0, "no dropout with freeze_encoder"),
                ("repeated_augmentation", self.repeated_augmentation == 1, "1 with freeze_encoder"),
                (
                    "test_flip",
                    one_view,
                    "one view with freeze_encoder: no test_flip, test_crops = test_windows = test_crop_side = 1",
                ),
            ]
        if self.tokenizers:
            unchanged = replace(given, window_share=NO_AUGMENTATION.window_share) == NO_AUGMENTATION
            rules += [
                ("augmentation", unchanged, "window_share only, with tokenizers"),
                ("repeated_augmentation", self.repeated_augmentation == 1, "1 with tokenizers"),
                ("pretraining", self.pretraining is None, "none with tokenizers"),
            ]
        if self.vq_mae or self.token_pretraining:
            codes = replace(NO_AUGMENTATION, modality_dropout=given.modality_dropout)
            rules += [
                ("vq_mae", self.vq_mae is not None, "a table with token_pretraining"),
                ("pretraining", self.pretraining is None, "token_pretraining with vq_mae"),
                ("augmentation", given == codes, "modality_dropout only, with vq_mae: codes are not augmented"),
                ("test_flip", whole_face, "no other views than windows with vq_mae"),
                ("window_seconds", self.window_seconds == WINDOW_SECONDS, f"{WINDOW_SECONDS:g} with vq_mae"),
                ("freeze_encoder", not self.freeze_encoder, 'freeze = ["encoder.*"] with vq_mae'),
                ("drop_path", self.drop_path == self.head_dropout == 0, "0 with vq_mae"),
                ("repeated_augmentation", not self.token_pretraining or self.repeated_augmentation == 1, "1"),
                ("gradient_checkpointing", not self.gradient_checkpointing, "false with vq_mae"),
            ]
        if self.pretraining or self.tokenizers or self.token_pretraining:
            rules += [
                ("loss", self.loss == LOSSES[0], f"{LOSSES[0]} without labels"),
                ("augmentation", not given.mixes and not given.modality_dropout, "no mixing and no modality_dropout"),
                ("drop_path", self.drop_path == self.head_dropout == 0, "0 without labels"),
                ("freeze_encoder", not self.freeze_encoder and not self.freeze, "nothing frozen without labels"),
                ("class_weights", weights_off, "none without labels"),
                ("sampling", self.sampling != "balanced", "shuffle or balanced-corpora without labels"),
                ("training_share", self.training_share == 1, "1 without labels"),
            ]
        for name, satisfied, expected in rules:
            if not satisfied:
                raise RecipeError(f"recipe {self.name[:80]}: {name}: found {getattr(self, name)}, expected {expected}")

    @property
    def sees_parts(self) -> bool:
        """Whether a test may see a part of a clip, or several, which takes shards with every frame."""
        return self.window_seconds > 0 or self.test_windows > 1

    def without_windows(self) -> Recipe:
        """The same for shards of pairs, of which every training sees the same 16 instants."""
        augmentation = replace(self.augmentation, window_share=NO_AUGMENTATION.window_share)
        return replace(self, window_seconds=0.0, test_windows=1, augmentation=augmentation)

    @property
    def weights_of_corpora(self) -> dict[str, float] | None:
        """Corpus -> its weight; None for texts that are no weights."""
        parts = [text.partition("=") for text in self.corpus_weights]
        try:
            weights = {name.strip(): float(number) for name, _, number in parts}
        except ValueError:
            return None
        usable = len(weights) == len(parts) and all(0 < weight < math.inf for weight in weights.values())
        return weights if usable else None

    def with_batch(self, batch: int) -> Recipe:
        """The same for another batch size, the learning rates scaled with it."""
        rates = {name: getattr(self, name) * batch / self.batch for name in ("learning_rate", "min_learning_rate")}
        return replace(self, batch=batch, **rates)

    def shortened(self, epochs: int) -> Recipe:
        """The same with all its schedule in fewer epochs: the learning rate ends at its minimum as before."""
        if epochs == self.epochs:
            return self
        assert self.epochs is not None
        share = epochs / self.epochs
        warmup = {"warmup_epochs": self.warmup_epochs * share, "warmup_steps": int(self.warmup_steps * share)}
        return replace(self, epochs=epochs, **warmup)

    def steps_per_epoch(self, clips: int) -> int:
        """Optimizer steps of an epoch of so many clips."""
        return clips // self.batch if self.drop_last else -(-clips // self.batch)

    def for_clips(self, clips: int) -> Recipe:
        """The same in epochs, for a training side of so many clips. Raises RecipeError for fewer than a step needs."""
        per_epoch = self.steps_per_epoch(clips)
        if not per_epoch:
            most = clips - clips % 2 if self.augmentation.mixes else clips
            advice = f"choose at most BATCH={most} (--batch)" if most else "add clips"
            raise RecipeError(
                f"recipe {self.name}: found {clips} training clips, expected at least the {self.batch} of a step: with "
                f"drop_last smaller steps are left out; {advice}"
            )
        return self if self.steps is None else replace(self, epochs=-(-self.steps // per_epoch), steps=None)
