"""Recipes: the YAML files of ``training/configs``, checked as a whole before anything starts.

All mistakes of a file are reported at once, one line each: keys that do not exist (with the nearest that does), values
of the wrong type or out of range, and settings that do not go together.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sdk.errors import UsageError, unknown_name
from training.features import FEATURE_LOSSES
from training.losses import LOSSES, PRIORS
from training.models.generator import Generator, GeneratorConfig
from training.models.named import GENERATORS

_STRICT_KEYS = ConfigDict(extra="forbid")

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]


class Anneal(StrEnum):
    """What the learning rate follows to its end."""

    #: ``run.steps``: reproducible; ``run.minutes`` is then a pause, continued with ``--resume last``.
    STEPS = "steps"
    #: ``run.minutes`` or ``run.steps``, whichever comes first: ends in time on a machine whose speed varies.
    MINUTES = "minutes"


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class DataRecipe:
    """``data:``.

    Attributes:
        pairs: folder of rendered pairs (``python -m training.data.render``).
        crop: side of a training crop in pixels, divisible by 16.
        batch: crops a step.
        mix_share: share of samples that are a mix of two styles, with the mix of both teachers as the target.
        style_weights: how often each style is drawn, relative; styles that are not named have 1.
        noise_chance, noise: share of inputs with sensor noise, and its largest sigma in [0, 1] units.
        jpeg_chance, jpeg_quality: share of inputs that go through JPEG, and the lowest quality.
        workers: loader processes; 0 loads in the training process (about 2 ms a sample).
        val_views: validation views, evenly taken from all of them.
        val_size: validation views are cut to this side, px.
    """

    pairs: str = "data/pairs"
    crop: Annotated[int, Field(ge=32, multiple_of=16)] = 160
    batch: Count = 8
    mix_share: Share = 0.1
    style_weights: dict[str, Positive] = dataclasses.field(default_factory=dict)
    noise_chance: Share = 0.4
    noise: Annotated[float, Field(ge=0, le=0.2)] = 0.03
    jpeg_chance: Share = 0.3
    jpeg_quality: Annotated[int, Field(ge=5, le=95)] = 45
    workers: Annotated[int, Field(ge=0)] = 0
    val_views: Count = 32
    val_size: Annotated[int, Field(ge=32, multiple_of=16)] = 320


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class LossRecipe:
    """``loss:``, the weight of every loss (0: not computed). docs/losses.md gives formulas and sources.

    Attributes:
        l1, gradient, ssim, colour, lab, chroma, edge, surface, texture: against the teacher's picture, or without a
            teacher against the photo; rows of ``training.losses.LOSSES``.
        total_variation: of the network's picture alone; a row of ``training.losses.PRIORS``.
        identity: what the network makes of a picture that is in the style already; costs a pass of its own.
        perceptual: ST-LPIPS to the same picture; several times slower than the network itself on a CPU, as are all
            that follow.
        content: features of the photo (``content_layer`` of ``features``) are kept.
        gram, gram_squared: Gram matrices of the style's pictures are matched; customary weights of the squared one go
            up to 1e6, with a content weight of 1.
        structure: features of the picture come near those of its own superpixels.
        features: ``vgg16``, ``alex`` or ``vgg19``.
        features_weights: file of torchvision's vgg19 weights.
        content_layer: feature map of ``content`` and ``structure``, 1 to 5; 4 is relu4_3 of VGG16, relu4_4 of VGG19.
        border: pixels at the edge of a crop that no loss looks at: the teacher saw the picture beyond, the crop ends.
    """

    l1: Weight = 1.0
    gradient: Weight = 1.0
    ssim: Weight = 0.5
    colour: Weight = 0.0
    lab: Weight = 0.0
    chroma: Weight = 0.0
    edge: Weight = 0.0
    surface: Weight = 0.0
    texture: Weight = 0.0
    total_variation: Weight = 0.0
    identity: Weight = 0.0
    perceptual: Weight = 0.0
    content: Weight = 0.0
    gram: Weight = 0.0
    gram_squared: Weight = 0.0
    structure: Weight = 0.0
    features: Literal["vgg16", "alex", "vgg19"] = "vgg16"
    features_weights: str | None = None
    content_layer: Annotated[int, Field(ge=1, le=5)] = 4
    border: Annotated[int, Field(ge=0, le=64)] = 0

    def weights(self) -> dict[str, float]:
        """The losses that count, with their weights."""
        names = (*LOSSES, *PRIORS, "identity", "perceptual", *FEATURE_LOSSES)
        return {name: getattr(self, name) for name in names if getattr(self, name) > 0}


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class OptimizerRecipe:
    """``optimizer:``, AdamW with a linear warm-up and a cosine to ``lr * final``.

    Attributes:
        lr: highest learning rate.
        final: last learning rate, as a share of ``lr``.
        warmup: share of the run that warms up.
        weight_decay: on convolution kernels alone; norms, style rows and biases have none.
        beta2: of Adam's second moment.
        clip: largest gradient norm; 0 for no limit.
        ema: decay of the averaged weights, which are those validated and saved; 0 for none.
        freeze_statistics: share of the run after which the norms' population statistics stay as they are and the
            network trains on them, as it will run; 1 for never.
    """

    lr: Positive = 3e-3
    final: Share = 0.005
    warmup: Share = 0.03
    weight_decay: Weight = 1e-4
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.99
    clip: Weight = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    freeze_statistics: Share = 0.85


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class RunRecipe:
    """``run:``.

    Attributes:
        out: folder of all runs; this one goes to ``out/name``.
        steps: optimizer steps, rounded up to whole stretches of ``validate_every``.
        minutes: wall-clock limit; see ``Anneal`` for what happens then.
        anneal: ``steps`` or ``minutes``.
        validate_every: steps between validations; the run can be resumed from each.
        log_every: steps between lines of the log file.
        pictures: validation photos shown in TensorBoard.
        seed: of weights and data.
        threads: of PyTorch; 0 leaves its default.
        compile: ``torch.compile`` the network (first step takes a minute or two).
        channels_last: memory format of the network.
        init: checkpoint (.safetensors) to start from; of one with other widths or depths, what fits is taken.
        encoder_weights: ``imagenet`` (online) or a timm .safetensors file to start the encoder from.
    """

    out: str = "runs"
    steps: Count = 10_000
    minutes: Positive | None = None
    anneal: Anneal = Anneal.STEPS
    validate_every: Count = 250
    log_every: Count = 50
    pictures: Annotated[int, Field(ge=0)] = 4
    seed: int = 0
    threads: Annotated[int, Field(ge=0)] = 0
    compile: bool = False
    channels_last: bool = False
    init: str | None = None
    encoder_weights: str | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class Recipe:
    """One training run.

    Attributes:
        name: of the run's folder and of the model in its checkpoints.
        version: of the model.
        styles: style names in the order of the network's rows.
        provenance: sentences for the checkpoint's metadata: data, licences.
        architecture: a generator of ``training.models.named`` instead of ours; it draws one style.
        generator: keys of ``GeneratorConfig`` but ``styles``; none with an ``architecture``.
        data, loss, optimizer, run: see their classes.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: str = "0.1.0"
    styles: Annotated[tuple[str, ...], Field(min_length=1)]
    provenance: tuple[str, ...] = ()
    architecture: str | None = None
    generator: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: DataRecipe = DataRecipe()
    loss: LossRecipe = LossRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    run: RunRecipe = RunRecipe()

    def generator_config(self) -> GeneratorConfig:
        """The network's architecture, with a row for each style."""
        return _checked_generator(self.generator, len(self.styles))

    @property
    def stretches(self) -> int:
        """Number of stretches between validations."""
        return -(-self.run.steps // self.validate_every)

    @property
    def validate_every(self) -> int:
        """Steps between validations, not more than the run has."""
        return min(self.run.validate_every, self.run.steps)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.stretches * self.validate_every

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return Path(self.run.out) / self.name

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML types."""
        return TypeAdapter(Recipe).dump_python(self, mode="json")


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class _GeneratorKeys(GeneratorConfig):
    """``GeneratorConfig`` with pydantic's checks of types and unknown keys."""


def _checked_generator(values: Mapping[str, Any], styles: int) -> GeneratorConfig:
    made = _GeneratorKeys(**{**values, "styles": styles})
    return GeneratorConfig(**{field.name: getattr(made, field.name) for field in dataclasses.fields(GeneratorConfig)})


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and applies ``key=value`` overrides (``run.steps=500``, ``generator.widths=[24,48,64,96]``).

    Raises:
        UsageError: the file is missing or not YAML, or has mistakes; all of them in one message.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError as error:
        raise UsageError(f"config {path} does not exist: give a YAML file of training/configs.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"config {path} cannot be read as YAML ({reason}): correct the file.") from error
    if not isinstance(values, dict):
        raise UsageError(f"config {path} holds {type(values).__name__}, not keys and values: see training/configs.")
    for override in overrides:
        _override(values, override)
    return make_recipe(values, source=str(path))


def make_recipe(values: Mapping[str, Any], *, source: str = "recipe") -> Recipe:
    """Checks plain values and makes a recipe of them; see ``load_recipe``."""
    faults: list[str] = []
    recipe: Recipe | None = None
    try:
        recipe = TypeAdapter(Recipe).validate_python(dict(values))
    except ValidationError as error:
        faults += _sentences(error, Recipe)
    styles = values.get("styles")
    count = len(styles) if isinstance(styles, (list, tuple)) and styles else 1
    given = values.get("generator") or {}
    if isinstance(given, dict):
        faults += _generator_faults(given, count)
    if recipe is not None:
        faults += _cross_checks(recipe)
    if faults or recipe is None:
        many = f"{len(faults)} mistakes" if len(faults) > 1 else "a mistake"
        raise UsageError(f"config {source} has {many}:" + "".join(f"\n  - {fault}" for fault in faults))
    return recipe


def _generator_faults(given: dict[str, Any], styles: int) -> list[str]:
    if "styles" in given:
        return ["generator.styles: the rows follow from the list `styles`; leave this key out."]
    try:
        Generator(_checked_generator(given, styles))
    except ValidationError as error:
        return _sentences(error, GeneratorConfig, prefix="generator.")
    except UsageError as error:
        return [f"generator: {error}"]
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        return [f"generator: no network can be built of these values ({error})."]
    return []


def _cross_checks(recipe: Recipe) -> list[str]:
    faults = _architecture_faults(recipe)
    twice = sorted({style for style in recipe.styles if recipe.styles.count(style) > 1})
    if twice:
        faults.append(f"styles: {twice[0]!r} is named twice; name each row once.")
    for style in recipe.data.style_weights:
        if style not in recipe.styles:
            faults.append(f"data.style_weights: {style!r} is not one of the styles {', '.join(recipe.styles)}.")
    if recipe.run.anneal is Anneal.MINUTES and recipe.run.minutes is None:
        faults.append("run.anneal: `minutes` needs run.minutes (or --minutes); none is given.")
    if not recipe.loss.weights():
        faults.append("loss: every weight is 0; give at least one above 0.")
    if recipe.loss.features == "vgg19" and recipe.loss.features_weights is None:
        faults.append("loss.features: vgg19 needs loss.features_weights, the file of torchvision's vgg19 state dict.")
    if recipe.loss.features != "vgg19" and recipe.loss.features_weights is not None:
        faults.append(f"loss.features_weights: the weights of {recipe.loss.features} are installed; leave it out.")
    if 2 * recipe.loss.border > recipe.data.crop - 32:
        faults.append(f"loss.border: {recipe.loss.border} leaves less than 32 px of a crop of {recipe.data.crop}.")
    return faults


def _architecture_faults(recipe: Recipe) -> list[str]:
    name, faults = recipe.architecture, []
    if name is None:
        return []
    if name not in GENERATORS:
        faults.append(f"architecture: {unknown_name('generator', name, GENERATORS)}")
    if len(recipe.styles) > 1:
        faults.append(f"styles: {name} draws one style, and {len(recipe.styles)} are named; name one.")
    if recipe.generator:
        faults.append(f"generator: its keys are of our own generator, not of {name}; leave them out.")
    if recipe.run.encoder_weights is not None:
        faults.append(f"run.encoder_weights: {name} has no encoder of timm's; leave it out.")
    return faults


def _sentences(error: ValidationError, owner: type, prefix: str = "") -> list[str]:
    return list(dict.fromkeys(_sentence(item, owner, prefix) for item in error.errors()))


def _sentence(item: Any, owner: type, prefix: str) -> str:
    place = [str(part) for part in item["loc"]]
    key = prefix + ".".join(place)
    if item["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        known = _keys(owner, place[:-1])
        near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}."
        return f"{key}: there is no such key; {hint}"
    if item["type"] == "missing" and isinstance(item["loc"][-1], int):
        return f"{prefix}{'.'.join(place[:-1])}: too few values, {item['input']!r}."
    if item["type"] in {"missing", "missing_argument"}:
        return f"{key}: is missing; give it."
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"{key}: {message}, not {item['input']!r}."


def _keys(owner: type, place: Sequence[str]) -> list[str]:
    for name in place:
        owner = {"data": DataRecipe, "loss": LossRecipe, "optimizer": OptimizerRecipe, "run": RunRecipe}.get(
            name, owner
        )
    names = [field.name for field in dataclasses.fields(owner)]
    return [name for name in names if not (owner is GeneratorConfig and name == "styles")]


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"override {override!r} is not of the form key=value: write for example run.steps=500.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"override {override!r} has a value that is not YAML: quote it.") from error
    *parents, last = key.strip().split(".")
    level = values
    for parent in parents:
        inner = level.setdefault(parent, {})
        if inner is None:
            inner = level[parent] = {}
        if not isinstance(inner, dict):
            raise UsageError(f"override {override!r} goes below {parent!r}, which holds a single value: check the key.")
        level = inner
    level[last] = value
