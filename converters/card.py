"""The model card of a bundle: ``README.md`` beside the artifacts, for whoever gets the folder without this project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from converters.registry import TARGETS, row_for
from sdk.bundle import Artifact, ModelInfo, Reference
from sdk.spec import IOSpec, Layout, TensorSpec

if TYPE_CHECKING:
    from sdk.verify import Verdict

_DRAWN = {
    Layout.NCHW: "N x 3 x H x W (channels first)",
    Layout.NHWC: "N x H x W x 3 (channels last)",
    Layout.IMAGE: "an 8-bit RGB image",
    Layout.NS: "N x S",
}


def model_card(
    model: ModelInfo,
    reference: Reference,
    artifacts: Sequence[Artifact],
    verdicts: Mapping[str, Verdict],
    *,
    provenance: Sequence[str] = (),
    credits: Sequence[str] = (),
) -> str:
    """Markdown text; the same bundle gives the same text.

    Args:
        model: of the bundle.
        reference: the float model.
        artifacts: all of the bundle's.
        verdicts: by file, what this export's verification found; artifacts of earlier exports have none.
        provenance: how the network came to be, a line each, from the checkpoint.
        credits: author and licence of each reference photo, a line each.
    """
    height, width = model.macs_size
    lines = [
        f"# {model.name} {model.version}",
        "",
        f"Photo to cartoon, one network for the styles {', '.join(f'`{style}`' for style in model.styles)}. "
        f"{model.params:,} parameters, {model.macs / 1e9:.2f} GMAC at {height}x{width}. "
        f"By {model.author}; licence of the weights: {model.licence}.",
        "",
        f"Made from the checkpoint with the SHA-256 `{model.checkpoint_sha256}`.",
        "",
        "## Files",
        "",
        "| file | style | size | precision | bytes | needs | SSIM mean / worst | max-abs |",
        "|---|---|---|---|--:|---|---|--:|",
        *(_file_row(artifact, verdicts.get(artifact.file)) for artifact in sorted(artifacts, key=lambda a: a.file)),
        "",
        "SSIM (Gaussian 11x11, RGB) and the largest absolute difference ([0, 1] scale) are against the float model "
        f"`{reference.file}`; *worst* is the worst photo in the worst style. `python -m sdk verify` with this folder "
        "measures them again, on your own photos if you like. Empty cells: exported earlier, or not run.",
        "",
        "## What goes in and out",
        "",
        *_borders(artifacts),
        "* Height and width are in the file's name and divisible by 16. No mean or standard deviation has to be known.",
        f"* `style` holds S = {len(model.styles)} weights that sum to 1, in the order "
        f"{', '.join(f'`{style}`' for style in model.styles)}: 1 for one style, or a mix. Files with a style in their "
        "name have it baked in and take the image alone.",
        f"* `{reference.file}`: float32 N x 3 x H x W in [0, 1], any batch, any height and width divisible by 16, "
        "every style. It is the float model, and what every other file is compared with.",
        "* `manifest.json` says all of this for programs.",
    ]
    quantized = [artifact for artifact in artifacts if artifact.quantization is not None]
    if quantized:
        lines += ["", "## Quantization", ""]
        methods: dict[str, list[Artifact]] = {}
        for artifact in sorted(quantized, key=lambda a: a.file):
            assert artifact.quantization is not None
            methods.setdefault(artifact.quantization.method, []).append(artifact)
        for method, those in methods.items():
            lines.append(f"* {method}: {', '.join(f'`{a.file}`' for a in those)}.")
        for artifact in quantized:
            assert artifact.quantization is not None
            if artifact.quantization.float_layers:
                kept = ", ".join(f"`{layer}`" for layer in artifact.quantization.float_layers)
                share = f"{artifact.quantization.float_macs:.1%} of the multiply-accumulates"
                lines.append(f"* `{artifact.file}` keeps in float: {kept} ({share}).")
        compared = [a for a in quantized if a.quantization is not None and a.quantization.fidelity is not None]
        if compared:
            lines += [
                "",
                "What the export itself added, apart from int8: each file, read back, against its own quantized graph "
                "on photos in every style, in steps of 1/255 (mean of the absolute differences, drift of the colours).",
                "",
                *(_fidelity_line(artifact) for artifact in compared),
            ]
    if provenance:
        lines += ["", "## How it was made", "", *(f"* {line}" for line in provenance)]
    if reference.pictures:
        shown = len({picture.photo for picture in reference.pictures})
        lines += [
            "",
            "## Reference pictures",
            "",
            f"`reference/` has {shown} photos and the float model's 8-bit pictures of them, for a phone to compare "
            "itself with.",
            *(f"* {line}" for line in credits),
        ]
    return "\n".join(lines) + "\n"


def _fidelity_line(artifact: Artifact) -> str:
    assert artifact.quantization is not None
    fidelity = artifact.quantization.fidelity
    assert fidelity is not None
    return (
        f"* `{artifact.file}` under {fidelity.runtime}: mean {fidelity.mean_abs_steps:.2f}, "
        f"drift {fidelity.drift_steps:.3f}."
    )


def _file_row(artifact: Artifact, verdict: Verdict | None) -> str:
    height, width = artifact.size
    ssim = "" if verdict is None or verdict.ssim is None else f"{verdict.ssim.mean:.4f} / {verdict.ssim.worst:.4f}"
    max_abs = "" if verdict is None or verdict.max_abs is None else f"{verdict.max_abs:.2g}"
    cells = [
        f"`{artifact.file}`",
        artifact.style or "all",
        f"{height}x{width}",
        artifact.precision,
        f"{artifact.bytes:,}",
        " ".join(filter(None, [artifact.min_os or artifact.min_runtime])),
        ssim,
        max_abs,
    ]
    return "| " + " | ".join(cells) + " |"


def _borders(artifacts: Sequence[Artifact]) -> list[str]:
    lines = []
    for row in TARGETS:
        of_row = [a for a in artifacts if row_for(a.target, a.backend) is row]
        borders = dict.fromkeys((a.precision.value, *_border(a.io)) for a in of_row)
        for image, output in dict.fromkeys(border[1:] for border in borders):
            precisions = ", ".join(sorted({b[0] for b in borders if b[1:] == (image, output)}))
            lines.append(f"* `.{row.suffix}` ({precisions}): takes {image}, gives {output}.")
    return lines


def _border(io: IOSpec) -> tuple[str, str]:
    return _tensor(io.image), _tensor(io.output)


def _tensor(tensor: TensorSpec) -> str:
    if tensor.layout is Layout.IMAGE:
        return f"`{tensor.name}`, {_DRAWN[tensor.layout]}"
    values = f"{tensor.dtype} in [{tensor.low:g}, {tensor.high:g}]"
    if tensor.scale is not None:
        values = f"{tensor.dtype} with scale 1/{1 / tensor.scale:.0f} and zero point {tensor.zero_point}"
    return f"`{tensor.name}`, {_DRAWN[tensor.layout]} {values}"
