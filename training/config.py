"""Recipes: the YAML files of ``training/configs``, checked as a whole before anything starts.

The key ``task`` says what kind of training a file is for; ``training.tasks.TASKS`` has each task's class of recipe.
All mistakes of a file are reported at once, one line each: keys that do not exist (with the nearest that does), values
of the wrong type or out of range, settings that do not go together, and, when a run is to start, data that do not fit.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sdk.errors import UsageError, unknown_name
from training.features import FEATURE_LOSSES
from training.losses import LOSSES, PRIORS
from training.models.generator import Generator, GeneratorConfig
from training.models.named import GENERATORS

#: Of every class of keys: unknown ones are mistakes.
STRICT_KEYS = ConfigDict(extra="forbid")

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


class Schedule(StrEnum):
    """How the learning rate goes down after its warm-up."""

    #: Half a cosine over the whole run.
    COSINE = "cosine"
    #: Stays for half of the run, then falls in a line (CycleGAN, Zhu et al. 2017, arXiv:1703.10593).
    LINEAR = "linear"
    #: Not at all.
    CONSTANT = "constant"


class Precision(StrEnum):
    """Of the forward pass; weights, losses and averages are always float32."""

    FLOAT32 = "32-true"
    BFLOAT16 = "bf16-mixed"
    #: Needs a GPU.
    FLOAT16 = "16-mixed"


class Strategy(StrEnum):
    """How several processes train together."""

    #: One process; ``ddp`` when there are several devices.
    AUTO = "auto"
    #: One process a device, gradients averaged (PyTorch's DistributedDataParallel; gloo on a CPU, NCCL on GPUs).
    DDP = "ddp"


class RunLogger(StrEnum):
    """Who draws the curves."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    BOTH = "both"


@dataclasses.dataclass(frozen=True)
class Fault:
    """A mistake of a recipe.

    Attributes:
        text: a sentence for people.
        keys: what it was concluded from, as ``data.crop``: says nothing when one of them has a mistake of its own.
    """

    text: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class SharedData:
    """What ``data:`` has in every task.

    Attributes:
        crop: side of a training crop in pixels, divisible by 16.
        batch: crops a batch, in each process.
        workers: loader processes; 0 loads in the training process (about 2 ms a sample).
    """

    crop: Annotated[int, Field(ge=32, multiple_of=16)] = 160
    batch: Count = 8
    workers: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class DataRecipe(SharedData):
    """``data:`` of rendered pairs.

    Attributes:
        pairs: folder of rendered pairs (``python -m training.data.render``).
        mix_share: share of samples that are a mix of two styles, with the mix of both teachers as the target.
        style_weights: how often each style is drawn, relative; styles that are not named have 1.
        noise_chance, noise: share of inputs with sensor noise, and its largest sigma in [0, 1] units.
        jpeg_chance, jpeg_quality: share of inputs that go through JPEG, and the lowest quality.
        val_views: validation views, evenly taken from all of them.
        val_size: validation views are cut to this side, px.
    """

    pairs: str = "data/pairs"
    mix_share: Share = 0.1
    style_weights: dict[str, Positive] = dataclasses.field(default_factory=dict)
    noise_chance: Share = 0.4
    noise: Annotated[float, Field(ge=0, le=0.2)] = 0.03
    jpeg_chance: Share = 0.3
    jpeg_quality: Annotated[int, Field(ge=5, le=95)] = 45
    val_views: Count = 32
    val_size: Annotated[int, Field(ge=32, multiple_of=16)] = 320


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class SharedLoss:
    """What ``loss:`` has in every task.

    Attributes:
        temporal: weight of the temporal consistency under synthetic motion (``training.temporal``); it draws each crop
            a second time.
    """

    temporal: Weight = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class LossRecipe(SharedLoss):
    """``loss:``, the weight of every loss (0: not computed). docs/losses.md gives formulas and sources.

    Attributes:
        l1, gradient, ssim, colour, lab, chroma, tint, edge, smoothness, plain, contours, grid, surface, texture:
            against the teacher's picture, or without a teacher against the photo; rows of ``training.losses.LOSSES``.
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
    tint: Weight = 0.0
    edge: Weight = 0.0
    smoothness: Weight = 0.0
    plain: Weight = 0.0
    contours: Weight = 0.0
    grid: Weight = 0.0
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

    @staticmethod
    def names() -> tuple[str, ...]:
        """The keys that are weights of a loss between pictures."""
        return (*LOSSES, *PRIORS, "identity", "perceptual", *FEATURE_LOSSES)

    def weights(self) -> dict[str, float]:
        """The losses that count, with their weights."""
        return {name: getattr(self, name) for name in self.names() if getattr(self, name) > 0}

    def checks(self) -> list[Fault]:
        """Settings that do not go together."""
        faults = []
        keys = ("loss.features", "loss.features_weights")
        if self.features == "vgg19" and self.features_weights is None:
            text = "loss.features: vgg19 needs loss.features_weights, the file of torchvision's vgg19 state dict."
            faults.append(Fault(text, keys))
        if self.features != "vgg19" and self.features_weights is not None:
            text = f"loss.features_weights: the weights of {self.features} are installed; leave it out."
            faults.append(Fault(text, keys))
        return faults


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class OptimizerRecipe:
    """``optimizer:``, AdamW with a linear warm-up and a schedule from ``lr`` to ``lr * final``.

    Attributes:
        lr: highest learning rate.
        schedule: see ``Schedule``.
        final: last learning rate, as a share of ``lr``.
        warmup: share of the run that warms up.
        weight_decay: on convolution kernels alone; norms, style rows and biases have none. 0 makes AdamW plain Adam.
        beta1, beta2: of Adam's first and second moment; adversarial training takes 0.5 for the first.
        clip: largest gradient norm; 0 for no limit.
        ema: decay of the averaged weights, which are those validated and saved; 0 for none.
        freeze_statistics: share of the run after which the norms' population statistics stay as they are and the
            network trains on them, as it will run; 1 for never.
    """

    lr: Positive = 3e-3
    schedule: Schedule = Schedule.COSINE
    final: Share = 0.005
    warmup: Share = 0.03
    weight_decay: Weight = 1e-4
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.99
    clip: Weight = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    freeze_statistics: Share = 0.85


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class RunRecipe:
    """``run:``.

    Attributes:
        out: folder of all runs; this one goes to ``out/name``.
        steps: optimizer steps, rounded up to whole stretches of ``validate_every``.
        epochs: passes over the training samples, instead of a number of steps.
        minutes: wall-clock limit; see ``Anneal`` for what happens then.
        anneal: ``steps`` or ``minutes``.
        validate_every: steps between validations; the run can be resumed from each.
        log_every: steps between lines of the log file.
        pictures: validation photos shown in TensorBoard.
        logger: see ``RunLogger``.
        early_stop: the run ends after so many validations without a better one; 0 for never.
        seed: of weights and data.
        threads: of PyTorch, in each process; 0 leaves its default.
        precision: see ``Precision``.
        accumulate: batches whose gradients make one optimizer step.
        devices: processes, one a GPU, or on a host without one several on its CPU.
        strategy: see ``Strategy``.
        compile: ``torch.compile`` the network (first step takes a minute or two).
        channels_last: memory format of the network.
        init: checkpoint (.safetensors) to start from; of one with other widths or depths, what fits is taken.
        encoder_weights: ``imagenet`` (online) or a timm .safetensors file to start the encoder from.
    """

    out: str = "runs"
    steps: Count = 10_000
    epochs: Positive | None = None
    minutes: Positive | None = None
    anneal: Anneal = Anneal.STEPS
    validate_every: Count = 250
    log_every: Count = 50
    pictures: Annotated[int, Field(ge=0)] = 4
    logger: RunLogger = RunLogger.TENSORBOARD
    early_stop: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=0)] = 0
    precision: Precision = Precision.FLOAT32
    accumulate: Count = 1
    devices: Count = 1
    strategy: Strategy = Strategy.AUTO
    compile: bool = False
    channels_last: bool = False
    init: str | None = None
    encoder_weights: str | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Recipe:
    """One training run; each task has its own class, with sections of its own.

    Attributes:
        task: a row of ``training.tasks.TASKS``.
        name: of the run's folder and of the model in its checkpoints.
        version: of the model.
        styles: style names in the order of the network's rows.
        provenance: sentences for the checkpoint's metadata: data, licences.
        architecture: a generator of ``training.models.named`` instead of ours; it draws one style.
        generator: keys of ``GeneratorConfig`` but ``styles``; none with an ``architecture``.
        data, loss, optimizer, run: see their classes.
    """

    task: str = "distill"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: str = "0.1.0"
    styles: Annotated[tuple[str, ...], Field(min_length=1)]
    provenance: tuple[str, ...] = ()
    architecture: str | None = None
    generator: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: SharedData = SharedData()
    loss: SharedLoss = SharedLoss()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    run: RunRecipe = RunRecipe()

    @property
    def starts(self) -> Mapping[str, str]:
        """Style to the style of ``run.init`` whose row it begins with, where that is not the one of its own name."""
        return {}

    def generator_config(self) -> GeneratorConfig:
        """The network's architecture, with a row for each style.

        Raises:
            UsageError, ValidationError: values that make no network; a recipe of ``make_recipe`` has none.
        """
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

    @property
    def step_crops(self) -> int:
        """Crops that make one optimizer step, over all batches and processes."""
        return self.data.batch * self.run.accumulate * self.run.devices

    def for_samples(self, samples: int) -> Self:
        """The recipe with ``run.steps`` for its ``run.epochs`` over so many training samples."""
        if self.run.epochs is None:
            return self
        steps = max(1, -(-round(self.run.epochs * samples) // self.step_crops))
        return dataclasses.replace(self, run=dataclasses.replace(self.run, steps=steps))

    def network(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one, by key of the recipe; plain JSON types."""
        network: Any = self.architecture or self.generator_config().to_dict()
        return {"task": self.task, "styles": list(self.styles), "generator": network}

    def checks(self) -> list[Fault]:
        """Settings that do not go together; a task adds its own. Looks at no disk and no hardware."""
        faults = _architecture_faults(self)
        twice = sorted({style for style in self.styles if self.styles.count(style) > 1})
        if twice:
            faults.append(Fault(f"styles: {twice[0]!r} is named twice; name each row once.", ("styles",)))
        if self.run.anneal is Anneal.MINUTES and self.run.minutes is None:
            faults.append(
                Fault("run.anneal: `minutes` needs run.minutes (or --minutes); none is given.", ("run.minutes",))
            )
        return faults

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML types."""
        return TypeAdapter(type(self)).dump_python(self, mode="json")


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class DistillRecipe(Recipe):
    """``task: distill``.

    Attributes:
        data, loss: see their classes.
        start_styles: style to a style of ``run.init`` whose row it begins with. Others begin with the row of their own
            name, or with the mean of all.
    """

    data: DataRecipe = DataRecipe()
    loss: LossRecipe = LossRecipe()
    start_styles: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def starts(self) -> Mapping[str, str]:
        """See ``Recipe``."""
        return self.start_styles

    @property
    def taught(self) -> tuple[str, ...]:
        """The styles that a teacher's pairs are learned of, in the order of the rows."""
        return self.styles

    def checks(self) -> list[Fault]:
        """See ``Recipe.checks``."""
        faults = [*super().checks(), *self.loss.checks()]
        for style in self.data.style_weights:
            if style not in self.taught:
                text = f"data.style_weights: {style!r} is not one of the styles {', '.join(self.taught)}."
                faults.append(Fault(text, ("data.style_weights", "styles")))
        for style in self.start_styles:
            if style not in self.styles:
                text = f"start_styles: {style!r} is not one of the styles {', '.join(self.styles)}."
                faults.append(Fault(text, ("start_styles", "styles")))
        if self.start_styles and self.run.init is None:
            text = "start_styles: needs run.init, a checkpoint that has these styles."
            faults.append(Fault(text, ("start_styles", "run.init")))
        if not self.loss.weights():
            keys = tuple(f"loss.{name}" for name in self.loss.names())
            faults.append(Fault("loss: every weight is 0; give at least one above 0.", keys))
        if 2 * self.loss.border > self.data.crop - 32:
            text = f"loss.border: {self.loss.border} leaves less than 32 px of a crop of {self.data.crop}."
            faults.append(Fault(text, ("loss.border", "data.crop")))
        return faults


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class _GeneratorKeys(GeneratorConfig):
    """``GeneratorConfig`` with pydantic's checks of types and unknown keys."""


def _checked_generator(values: Mapping[str, Any], styles: int) -> GeneratorConfig:
    made = _GeneratorKeys(**{**values, "styles": styles})
    return GeneratorConfig(**{field.name: getattr(made, field.name) for field in dataclasses.fields(GeneratorConfig)})


def load_recipe(
    path: Path, overrides: Sequence[str] = (), *, also: Callable[[Recipe], Sequence[Fault]] | None = None
) -> Recipe:
    """Reads a recipe and applies ``key=value`` overrides (``run.steps=500``, ``generator.widths=[24,48,64,96]``).

    Args:
        path: the YAML file.
        overrides: see above.
        also: what else shall be checked, reported together with the file's own mistakes.

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
    return make_recipe(values, source=str(path), also=also)


def make_recipe(
    values: Mapping[str, Any],
    *,
    source: str = "recipe",
    also: Callable[[Recipe], Sequence[Fault]] | None = None,
) -> Recipe:
    """Checks plain values and makes a recipe of them, of the class that its ``task`` has; see ``load_recipe``."""
    from training.tasks import TASKS  # tasks know recipes

    given = copy.deepcopy(dict(values))
    name = given.get("task", "distill")
    known = isinstance(name, str) and name in TASKS
    owner: type[Recipe] = TASKS[name].recipe if known else Recipe
    faults = [] if known else [f"task: {unknown_name('task', str(name), TASKS)}"]
    wrong: set[str] = set()
    styles = given.get("styles")
    count = len(styles) if isinstance(styles, (list, tuple)) and styles else 1
    network = given.get("generator") or {}
    network_faults = _generator_faults(network, count) if isinstance(network, dict) else []
    if network_faults:
        wrong.add("generator")
        given.pop("generator")
    recipe = _repaired(given, owner, faults, wrong)
    if not known:  # the sections of a task that nobody knows are nobody's mistakes
        faults = [fault for fault in faults if "there is no such key" not in fault]
    faults += network_faults
    if recipe is not None and known:
        found = [*recipe.checks(), *(also(recipe) if also else ())]
        faults += [fault.text for fault in found if not wrong.intersection(fault.keys)]
    if faults or recipe is None:
        raise mistakes(source, faults)
    return recipe


def mistakes(source: str, faults: Sequence[str]) -> UsageError:
    """One error for all of them, a line each."""
    many = f"{len(faults)} mistakes" if len(faults) > 1 else "a mistake"
    return UsageError(f"config {source} has {many}:" + "".join(f"\n  - {fault}" for fault in faults))


def _repaired(values: dict[str, Any], owner: type[Recipe], faults: list[str], wrong: set[str]) -> Recipe | None:
    """The recipe with its defaults in the place of wrong values, so that the rest can be checked too.

    Args:
        values: plain ones; wrong ones are taken out.
        owner: the class of recipe.
        faults: gets the sentences.
        wrong: gets the keys that were wrong.

    Returns:
        ``None`` when that makes no recipe either.
    """
    sections = _sections(owner)
    while True:
        try:
            return TypeAdapter(owner).validate_python(values)
        except ValidationError as error:
            faults += [sentence for sentence in _sentences(error, owner) if sentence not in faults]
            named = [[str(part) for part in item["loc"]] for item in error.errors()]
            places = {tuple(place[: 2 if place[0] in sections else 1]) for place in named}
        before = copy.deepcopy(values)
        for place in places:
            key = ".".join(place)
            wrong.add(key)
            *parents, last = place
            level = values[parents[0]] if parents else values
            stand_in = {"name": "unnamed", "styles": ["unnamed"]}.get(key)
            if stand_in is not None:
                level[last] = stand_in
            elif isinstance(level, dict):
                level.pop(last, None)
        if values == before:
            return None


def _sections(owner: type) -> dict[str, type]:
    """The keys of a class of recipe that have keys of their own."""
    hints = typing.get_type_hints(owner)
    return {name: hint for name, hint in hints.items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)}


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


def _architecture_faults(recipe: Recipe) -> list[Fault]:
    name, faults = recipe.architecture, []
    if name is None:
        return []
    if name not in GENERATORS:
        faults.append(Fault(f"architecture: {unknown_name('generator', name, GENERATORS)}", ("architecture",)))
    if len(recipe.styles) > 1:
        text = f"styles: {name} draws one style, and {len(recipe.styles)} are named; name one."
        faults.append(Fault(text, ("styles", "architecture")))
    if recipe.generator:
        text = f"generator: its keys are of our own generator, not of {name}; leave them out."
        faults.append(Fault(text, ("generator", "architecture")))
    if recipe.run.encoder_weights is not None:
        text = f"run.encoder_weights: {name} has no encoder of timm's; leave it out."
        faults.append(Fault(text, ("run.encoder_weights", "architecture")))
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
        owner = _sections(owner).get(name, owner)
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
