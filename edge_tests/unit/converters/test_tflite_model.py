"""Flatbuffer edits: the shuffle, names and metadata, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip("litert_torch", reason="needs the extra export")

from ai_edge_litert.interpreter import Interpreter

from converters.tflite_model import METADATA_NAME, TFLiteModel, read_delegation
from converters.to_tflite import convert, quantize
from sdk.errors import UsageError

pytestmark = pytest.mark.export


class Tail(nn.Module):
    """The network's last steps on a picture of 8 x 12 pixels; two convolutions share a bias of zeros."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Conv2d(3, 12, 1, bias=False)
        self.tail = nn.Conv2d(12, 12, 3, padding=1)
        self.tail.weight.data *= 6
        self.tail.bias.data = torch.linspace(-0.4, 1.2, 12)  # type: ignore[union-attr]

    def forward(self, image: Tensor) -> Tensor:
        return torch.clamp(F.pixel_shuffle(self.tail(self.before(image)), 2), 0.0, 1.0)


@pytest.fixture(scope="module")
def tail() -> Tail:
    return Tail().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def written(tail: Tail, image: Tensor) -> bytes:
    return convert(tail, (image,))


@pytest.fixture
def model(written: bytes) -> TFLiteModel:
    return TFLiteModel(written)


def _run(content: bytes, image: Tensor) -> np.ndarray:
    """``1 x C x H x W`` float32."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image.permute(0, 2, 3, 1).contiguous().numpy())
    interpreter.invoke()
    made: np.ndarray = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return made.transpose(0, 3, 1, 2)


def test_rewritten_shuffle_draws_the_same_picture(model: TFLiteModel, tail: Tail, image: Tensor) -> None:
    want = tail(image).numpy()
    assert 0.1 < np.mean((want == 0) | (want == 1)) < 0.9  # the clamp is at work
    model.cut_shuffle()
    model.append_shuffle()
    assert np.abs(_run(model.to_bytes(), image) - want).max() <= 1e-5


def test_rewritten_shuffle_needs_no_transpose_and_one_partition(model: TFLiteModel, tmp_path: Path) -> None:
    assert "TRANSPOSE" in model.operators()
    model.cut_shuffle()
    model.append_shuffle()
    assert model.operators()[-2:] == ["MINIMUM", "DEPTH_TO_SPACE"]
    assert "TRANSPOSE" not in model.operators()
    path = tmp_path / "tail.tflite"
    path.write_bytes(model.to_bytes())
    delegation = read_delegation(path)
    assert delegation.delegates == ("XNNPACK",)
    assert delegation.operators_outside == ()


def test_planted_channel_order_is_seen_in_the_picture(model: TFLiteModel, tail: Tail, image: Tensor) -> None:
    model.cut_shuffle()
    conv = next(op for op in model.graph.operators if model.graph.outputs[0] in op.outputs)
    bias = model.own_values(conv.inputs[2])
    bias[:2] = bias[1::-1].copy()
    model.append_shuffle()
    assert np.abs(_run(model.to_bytes(), image) - tail(image).numpy()).max() > 0.01


def test_cutting_leaves_constants_alone_that_another_operator_shares(model: TFLiteModel) -> None:
    conv = [op for op in model.graph.operators if "CONV" in model.operators()[model.graph.operators.index(op)]]
    first, last = conv[0], conv[-1]
    shared = model.graph.tensors[last.inputs[2]].buffer
    model.graph.tensors[first.inputs[2]].buffer = shared
    before = model.values(first.inputs[2]).copy()
    model.cut_shuffle()
    assert np.array_equal(model.values(first.inputs[2]), before)
    assert not np.array_equal(model.values(last.inputs[2]), before)


def test_graph_without_a_shuffle_is_refused(image: Tensor) -> None:
    plain = TFLiteModel(convert(nn.Conv2d(3, 3, 1).eval(), (image,)))
    with pytest.raises(ValueError, match="does not end in a convolution and a pixel shuffle"):
        plain.cut_shuffle()


def test_names_metadata_and_signature_survive_saving(model: TFLiteModel, image: Tensor, tail: Tail) -> None:
    described = {"name": "toon", "version": "1.2", "styles": "a,b"}
    model.cut_shuffle()
    model.append_shuffle()
    model.drop_unused()
    model.rename(("image",), "cartoon")
    model.describe(described)
    content = model.to_bytes()
    again = TFLiteModel(content)
    assert again.description() == described
    assert again.model.description == b"toon 1.2"
    assert METADATA_NAME.encode() in [entry.name for entry in again.model.metadata]
    runner = Interpreter(model_content=content, num_threads=1).get_signature_runner("serving_default")
    made = runner(image=image.permute(0, 2, 3, 1).contiguous().numpy())
    assert list(made) == ["cartoon"]
    assert np.abs(made["cartoon"].transpose(0, 3, 1, 2) - tail(image).numpy()).max() <= 1e-5
    assert TFLiteModel(convert(tail, (image,))).description() == {}


def test_dropping_what_is_unused_keeps_the_picture_and_makes_the_file_smaller(
    model: TFLiteModel, tail: Tail, image: Tensor
) -> None:
    model.cut_shuffle()
    model.append_shuffle()
    before = len(model.to_bytes())
    model.drop_unused()
    model.rename(("image",), "cartoon")
    content = model.to_bytes()
    assert len(content) < before
    assert b"Conv2d" not in content
    assert np.abs(_run(content, image) - tail(image).numpy()).max() <= 1e-5


def test_borders_off_the_picture_grid_are_refused(
    written: bytes, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted fault: the file's grid is read back, so a quantizer that ignores the ranges is found out."""
    from converters import to_tflite

    class Careless(to_tflite.quantizer.Quantizer):
        def quantize(self, ranges: dict[str, dict[str, np.ndarray]], **options: object) -> object:
            ranges["cartoon"]["max"] = ranges["cartoon"]["max"] * 0.9
            return super().quantize(ranges, **options)

    model = TFLiteModel(written)
    model.cut_shuffle()
    model.drop_unused()
    model.rename(("image",), "cartoon")
    feeds = [{"image": image.permute(0, 2, 3, 1).contiguous().numpy()}]
    assert quantize(model, feeds, on_grid=("image", "cartoon"))
    monkeypatch.setattr(to_tflite.quantizer, "Quantizer", Careless)
    with pytest.raises(RuntimeError, match=r"cartoon has the grid .* not 1/255 and -128"):
        quantize(model, feeds, on_grid=("image", "cartoon"))


def test_calibration_does_not_depend_on_the_order(written: bytes, image: Tensor) -> None:
    """The quantizer's own moving average does, which is why it is not used."""
    model = TFLiteModel(written)
    model.cut_shuffle()
    model.drop_unused()
    model.rename(("image",), "cartoon")
    feeds = [{"image": np.full((1, 8, 12, 3), level, dtype=np.float32)} for level in (0.1, 0.5, 1.0)]
    ways = [quantize(model, order, on_grid=("image", "cartoon")) for order in (feeds, feeds[::-1])]
    assert ways[0] == ways[1]


class Product(nn.Module):
    """``relu6(photo * scale + shift)`` on a picture of one pixel, where a photo's tensor has the shape of a style's."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.picture = nn.Conv2d(3, 4, 1)
        self.scale, self.shift = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(3, 4, 1, bias=kind == "bias")

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        rows = style[:, :, None, None]
        product = self.picture(image) * self.scale(rows)
        added = product + self.shift(image if self.kind == "residual" else rows)
        if self.kind == "activation":
            return torch.relu(added)
        return F.relu6(added) + product if self.kind == "read twice" else F.relu6(added)


@pytest.mark.parametrize("kind", ["style", "residual", "bias", "activation", "read twice"])
def test_a_product_has_limits_only_where_a_styles_shift_and_a_relu6_follow_it(kind: str) -> None:
    module = Product(kind).eval().requires_grad_(False)
    model = TFLiteModel(convert(module, (torch.rand(1, 3, 1, 1), torch.full((1, 3), 1 / 3))))
    assert "MUL" in model.operators()
    limits = list(model.product_limits().values())
    if kind == "style":
        rows = module.shift.weight
        assert limits == [(pytest.approx(-float(rows.max())), pytest.approx(6 - float(rows.min())))]
    else:
        assert limits == []


def test_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match="LiteRT cannot load"):
        read_delegation(path)
