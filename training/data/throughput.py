"""How fast the loader is by itself: ``python -m training.data.throughput --photos DIR --pictures DIR --workers 2``.

It opens the folders as a task does, warms up, loads batches and throws them away. A sample is a photo and a picture
(with its smoothed twin and the condition's maps, if any). ``--step-seconds`` is what a training step takes without the
loader; the answer is what share of it loading a batch takes.

Memory is the peak resident size of this process and of each loader process (Linux). Kept pictures are not in it: they
lie in the system's page cache, which gives way when memory is short.
"""

from __future__ import annotations

import itertools
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from sdk.console import note, progress, run, say
from sdk.errors import UsageError
from sdk.worker import peak_rss_bytes
from training.data.recipe import UnpairedRecipe
from training.data.unpaired import UnpairedData, make_loader, open_unpaired

#: Batches a loader process has ready before they are asked for (PyTorch's default): these do not count.
_PREFETCHED = 2


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """What was measured.

    Attributes:
        samples: that counted.
        seconds: they took, wall clock.
        batch: samples a batch.
        workers: loader processes.
        peak_rss_bytes: of this process and then of each loader process; 0 where the system does not say.
    """

    samples: int
    seconds: float
    batch: int
    workers: int
    peak_rss_bytes: tuple[int, ...]

    @property
    def samples_per_second(self) -> float:
        """Samples a second."""
        return self.samples / self.seconds

    @property
    def batch_seconds(self) -> float:
        """Seconds a batch takes."""
        return self.batch / self.samples_per_second

    def share(self, step_seconds: float) -> float:
        """The time of loading a batch over that of a training step; above 1 the loader decides the speed."""
        return self.batch_seconds / step_seconds

    def waiting(self, step_seconds: float) -> float:
        """Share of the run's time that waits for the loader, in [0, 1).

        Loader processes work while the step computes, so only what is longer than the step is waited for; without them
        all of it is.
        """
        wait = self.batch_seconds if self.workers == 0 else max(0.0, self.batch_seconds - step_seconds)
        return wait / (step_seconds + wait)


def measure(data: UnpairedData, *, batch: int, workers: int, batches: int) -> Throughput:
    """Loads some batches and times them.

    Args:
        data: see ``open_unpaired``.
        batch: samples a batch.
        workers: loader processes.
        batches: that count; those that were prefetched come before them and do not.
    """
    warm_up = 1 + _PREFETCHED * workers
    loader = make_loader(data.train, batch=batch, samples=batch * (warm_up + batches), workers=workers)
    before = {child.pid for child in multiprocessing.active_children()}
    loaded = iter(loader)
    for _ in itertools.islice(loaded, warm_up):
        pass
    start = time.perf_counter()
    for _ in loaded:
        pass
    seconds = time.perf_counter() - start
    children = [child.pid for child in multiprocessing.active_children() if child.pid not in before]
    peaks = [peak_rss_bytes(), *(peak_rss_bytes(pid) for pid in children if pid is not None)]
    return Throughput(
        samples=batches * batch, seconds=seconds, batch=batch, workers=workers, peak_rss_bytes=tuple(peaks)
    )


def describe(measured: Throughput, data: UnpairedData, step_seconds: float | None) -> list[str]:
    """The lines that are printed."""
    stores = {"photos": data.train.photos, "pictures": data.train.pictures}
    kept = ", ".join(f"{store.kept} of {len(store)} {name}" for name, store in stores.items())
    parts = ", ".join(data.train.parts)
    lines = [
        f"kept at {data.train.photos.side} px: {kept}",
        f"{measured.samples_per_second:.1f} samples/s ({parts}), {measured.samples_per_second * 2:.1f} images/s read; "
        f"a batch of {measured.batch}: {measured.batch_seconds * 1e3:.1f} ms; {measured.samples} samples, "
        f"{measured.workers} loader processes",
    ]
    if step_seconds is not None:
        waiting = measured.waiting(step_seconds)
        lines.append(
            f"of a step of {step_seconds:g} s, loading its batch takes {measured.share(step_seconds):.1%}; "
            f"{waiting:.1%} of a run's time waits for the loader"
        )
    here, *others = (f"{peak / 1e6:.0f}" for peak in measured.peak_rss_bytes)
    lines.append(f"peak memory: {here} MB here" + (f", {' + '.join(others)} MB in loader processes" if others else ""))
    return lines


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    photos: Annotated[Path, typer.Option(help="Folder of photos.")],
    pictures: Annotated[Path, typer.Option(help="Folder of a style's pictures.")],
    workers: Annotated[int, typer.Option(min=0, help="Loader processes; 0 loads in this one.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Samples a batch.")] = 8,
    batches: Annotated[int, typer.Option(min=1, help="Batches that are timed.")] = 50,
    step_seconds: Annotated[
        float | None, typer.Option(min=1e-6, help="What a training step takes without the loader.")
    ] = None,
    resize: Annotated[int, typer.Option(help="Short side of the scaled pictures, px.")] = 256,
    crop: Annotated[int, typer.Option(help="Side of a crop, px.")] = 224,
    smooth: Annotated[bool, typer.Option(help="Edge-smoothed twins of the style's pictures.")] = True,
    conditions: Annotated[str, typer.Option(help="Maps of the photo, separated by commas.")] = "",
    segmentation: Annotated[Path | None, typer.Option(help="Model (.tflite) for the masks.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for the scaled pictures.")] = Path("data/cache"),
    cache_mb: Annotated[int, typer.Option(help="Most megabytes of them, each of photos and pictures.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the order and the crops.")] = 0,
) -> None:
    """Time the loader of unpaired data by itself, and compare it with a training step."""
    try:
        recipe = UnpairedRecipe(
            photos=str(photos),
            pictures=str(pictures),
            workers=workers,
            batch=batch,
            resize=resize,
            crop=crop,
            smooth=smooth,
            conditions=tuple(name.strip() for name in conditions.split(",") if name.strip()),
            segmentation=None if segmentation is None else str(segmentation),
            cache=str(cache),
            cache_mb=cache_mb,
        )
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, item['loc']))} is {item['input']!r}: {item['msg']}" for item in error.errors()]
        raise UsageError("; ".join(faults) + ".") from error
    with progress(None, "read pictures") as advance:
        data = open_unpaired(recipe, seed=seed, advance=advance)
    for line in data.notes:
        note(line)
    measured = measure(data, batch=batch, workers=workers, batches=batches)
    for line in describe(measured, data, step_seconds):
        say(line)


if __name__ == "__main__":
    run(app, prog_name="python -m training.data.throughput")
