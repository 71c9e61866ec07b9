"""Which artifacts of a bundle a command is about, and the runtimes that serve each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdk.bundle import Artifact, Bundle
from sdk.errors import UsageError
from sdk.runtimes import Runtime, get_runtime, require, runtimes_for


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A runtime that was left out, because this host cannot have it and another one served its artifacts."""

    runtime: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What was chosen.

    Attributes:
        bundle: opened; its files have not been looked at.
        artifacts: the chosen ones, at least one.
        pairs: each of them with every chosen runtime that serves it.
        left_out: see ``pair_with_runtimes``.
    """

    bundle: Bundle
    artifacts: tuple[Artifact, ...]
    pairs: tuple[tuple[Artifact, Runtime], ...]
    left_out: tuple[Passed, ...] = ()

    def check_files(self) -> None:
        """Compares the chosen files with the manifest, before any of them is loaded.

        Raises:
            UsageError: when one was altered.
        """
        for artifact in self.artifacts:
            self.bundle.check_file(artifact.file, artifact.sha256, artifact.bytes)


def select(
    bundle: Bundle | str | Path, *, runtimes: Sequence[str] | None = None, artifacts: Sequence[str] | None = None
) -> Selection:
    """Opens a bundle and chooses from it.

    Args:
        bundle: a bundle, or its folder.
        runtimes: names from ``sdk.runtimes.RUNTIMES``; ``None`` is every runtime that is here.
        artifacts: file names; ``None`` is all.

    Raises:
        UsageError: no bundle, an unknown name, or nothing is chosen.
        MissingRuntimeError: a runtime named in ``runtimes`` is missing.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    for name in runtimes or ():
        require(get_runtime(name))
    chosen = opened.artifacts if artifacts is None else tuple(opened.artifact(name) for name in artifacts)
    pairs, left_out = pair_with_runtimes(opened, chosen, runtimes)
    return Selection(bundle=opened, artifacts=chosen, pairs=tuple(pairs), left_out=left_out)


def pair_with_runtimes(
    bundle: Bundle, artifacts: Sequence[Artifact], names: Sequence[str] | None
) -> tuple[list[tuple[Artifact, Runtime]], tuple[Passed, ...]]:
    """Every artifact with every runtime that serves it.

    A runtime that this host cannot have (Core ML outside macOS) is left out when another one serves the artifact, and
    is the second part of what is returned.

    Args:
        bundle: where the artifacts are from, for messages.
        artifacts: some of its artifacts.
        names: runtimes to choose from; ``None`` is all.

    Raises:
        UsageError: no artifacts, an unknown runtime, or no pair at all.
    """
    if not artifacts:
        raise UsageError(f"the bundle {str(bundle.folder)!r} has no artifacts: export some into it.")
    pairs: list[tuple[Artifact, Runtime]] = []
    left_out: dict[str, Passed] = {}
    for artifact in artifacts:
        serving = runtimes_for(artifact.target, names)
        able = [runtime for runtime in serving if not runtime.available().by_host]
        for runtime in serving:
            availability = runtime.available()
            if availability.by_host and able:
                left_out[runtime.name] = Passed(runtime=runtime.name, reason=availability.reason)
            else:
                pairs.append((artifact, runtime))
    if not pairs:
        targets = ", ".join(sorted({artifact.target.value for artifact in artifacts}))
        chosen = ", ".join(names or ())
        raise UsageError(
            f"no artifact here is served by the runtime {chosen or 'list given'}: the bundle has {targets}."
        )
    return pairs, tuple(left_out.values())
