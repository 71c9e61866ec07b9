"""The encoder: a timm MobileNetV3 by name and width, cut at stride 16.

"Minimalistic" MobileNetV3 (no squeeze-excite, no hard-swish, no 5x5) is the variant its authors made for integer
hardware (Howard et al. 2019, arXiv:1905.02244); it is the one we ship.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import timm
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import Tensor, nn

from sdk.errors import UsageError, unknown_name

#: Stages down to stride 16 in timm's notation (kernel, stride, expansion, channels), from tables 1 and 2 of the paper.
_STAGES: dict[str, list[list[str]]] = {
    "mobilenetv3_small_100": [
        ["ds_r1_k3_s2_e1_c16_se0.25_nre"],
        ["ir_r1_k3_s2_e4.5_c24_nre", "ir_r1_k3_s1_e3.67_c24_nre"],
        ["ir_r1_k5_s2_e4_c40_se0.25", "ir_r2_k5_s1_e6_c40_se0.25"],
        ["ir_r2_k5_s1_e3_c48_se0.25"],
    ],
    "mobilenetv3_large_100": [
        ["ds_r1_k3_s1_e1_c16_nre"],
        ["ir_r1_k3_s2_e4_c24_nre", "ir_r1_k3_s1_e3_c24_nre"],
        ["ir_r3_k5_s2_e3_c40_se0.25_nre"],
        ["ir_r1_k3_s2_e6_c80", "ir_r1_k3_s1_e2.5_c80", "ir_r2_k3_s1_e2.3_c80"],
        ["ir_r2_k3_s1_e6_c112_se0.25"],
    ],
    "tf_mobilenetv3_small_minimal_100": [
        ["ds_r1_k3_s2_e1_c16"],
        ["ir_r1_k3_s2_e4.5_c24", "ir_r1_k3_s1_e3.67_c24"],
        ["ir_r1_k3_s2_e4_c40", "ir_r2_k3_s1_e6_c40"],
        ["ir_r2_k3_s1_e3_c48"],
    ],
    "tf_mobilenetv3_large_minimal_100": [
        ["ds_r1_k3_s1_e1_c16"],
        ["ir_r1_k3_s2_e4_c24", "ir_r1_k3_s1_e3_c24"],
        ["ir_r3_k3_s2_e3_c40"],
        ["ir_r1_k3_s2_e6_c80", "ir_r1_k3_s1_e2.5_c80", "ir_r2_k3_s1_e2.3_c80"],
        ["ir_r2_k3_s1_e6_c112"],
    ],
}
ENCODERS: tuple[str, ...] = tuple(_STAGES)
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hard_swish": nn.Hardswish}
STRIDES = (2, 4, 8, 16)


class Encoder(nn.Module):
    """Features at strides 2, 4, 8 and 16 of an RGB image in [0, 1].

    Args:
        name: a timm model name from ``ENCODERS``.
        width: multiplier of every channel count (rounded to 8).
        stem: channels of the first convolution at stride 2; 16 is timm's.
        activation: ``relu``, ``relu6`` or ``hard_swish``; ReLU6 bounds the ranges that int8 has to cover.
        pruned: channels of the stem and (hidden, out) of each block, when they are not those of ``width`` and ``stem``.

    Raises:
        UsageError: an unknown name, or pruned widths that no network of this name can have.
    """

    def __init__(
        self,
        name: str,
        *,
        width: float = 1.0,
        stem: int = 16,
        activation: str = "relu6",
        pruned: tuple[int, Sequence[tuple[int, int]]] | None = None,
    ) -> None:
        super().__init__()
        if name not in _STAGES:
            raise unknown_name("encoder", name, ENCODERS)
        if activation not in _ACTIVATIONS:
            raise unknown_name("activation", activation, _ACTIVATIONS)
        self.name, self.width, self.stem = name, width, stem
        stages = decode_arch_def(_STAGES[name])
        round_width = partial(round_channels, multiplier=width)
        if pruned is not None:
            _prune_stages(stages, stem, width, *pruned)
            stem, round_width = pruned[0], partial(round_channels, multiplier=0)  # 0: as they are
        self.features = MobileNetV3Features(
            block_args=stages,
            out_indices=(0, 1, 2, 3),
            stem_size=stem,
            fix_stem=True,
            # timm's "same" padding computes its extents from the image's size; a fixed pad of 1 exports for any size.
            pad_type="",
            round_chs_fn=round_width,
            act_layer=_ACTIVATIONS[activation],
            norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
            se_layer=partial(
                SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round_channels
            ),
        )
        self.channels: tuple[int, ...] = tuple(self.features.feature_info.channels())

    def forward(self, image: Tensor) -> list[Tensor]:
        """``N x 3 x H x W`` to four feature maps at strides 2, 4, 8, 16."""
        return self.features(image)

    def load_imagenet(self) -> None:
        """Loads timm's ImageNet weights, which a hub serves to users who are online.

        The weights expect ``(image - mean) / std``; that affine is folded into the first convolution because this
        network takes [0, 1]. (Zero padding then stands for black, not for the mean: one pixel at the border.)

        Raises:
            UsageError: when the hub cannot be reached, or the weights do not fit this width or stem.
        """
        if self.width != 1.0 or self.stem != 16:
            raise UsageError(
                f"ImageNet weights exist for width 1.0 and stem 16, not for width {self.width} and stem {self.stem}: "
                "set both, or train from scratch."
            )
        name = self.name
        try:
            full = timm.create_model(name, pretrained=True, features_only=True, pad_type="")
        except Exception as error:  # timm and its hub client raise many types when offline
            raise UsageError(
                f"the ImageNet weights of {name} could not be fetched ({type(error).__name__}): go online "
                "once, or give a file with `encoder_weights`."
            ) from error
        config = timm.get_pretrained_cfg(name)
        assert config is not None  # timm just built this model from it
        self.load_weights(full.state_dict(), mean=config.mean, std=config.std)

    def load_weights(
        self, state: dict[str, Tensor], *, mean: tuple[float, ...] = (0.0,) * 3, std: tuple[float, ...] = (1.0,) * 3
    ) -> None:
        """Loads a timm state dict; extra keys of stages this encoder does not have are ignored.

        Raises:
            UsageError: when a weight this encoder needs is absent or has another shape.
        """
        own = self.features.state_dict()
        wrong = [k for k, v in own.items() if k not in state or state[k].shape != v.shape]
        if wrong:
            raise UsageError(
                f"the weights do not fit encoder {self.name}: {len(wrong)} tensors are absent or of another shape "
                f"(first: {wrong[0]}); give weights of the same timm model."
            )
        state = {k: state[k].clone() for k in own}
        kernel = state["conv_stem.weight"]
        inverse = kernel.new_tensor([1.0 / s for s in std]).view(1, 3, 1, 1)
        shifted = kernel.new_tensor([m / s for m, s in zip(mean, std, strict=True)]).view(1, 3, 1, 1)
        offset = (kernel * shifted).sum((1, 2, 3))
        state["conv_stem.weight"] = kernel * inverse
        # conv(x') = conv'(x) - offset; the batch norm right after subtracts its mean, which takes the offset in.
        state["bn1.running_mean"] = state["bn1.running_mean"] + offset
        self.features.load_state_dict(state)


def _prune_stages(
    stages: list[list[dict[str, Any]]], stem: int, width: float, pruned_stem: int, pruned: Sequence[tuple[int, int]]
) -> None:
    """Writes explicit widths into timm's block arguments; what is a residual, and how wide a gate is, stays as it was.

    Raises:
        UsageError: a wrong number of blocks, or a width that its block cannot have.
    """
    # timm gives a stage's later blocks stride 1, whatever their arguments say.
    blocks = [(block, block["stride"] if block is stage[0] else 1) for stage in stages for block in stage]
    if len(pruned) != len(blocks):
        raise UsageError(f"pruned widths are given for {len(pruned)} encoder blocks: give them for all {len(blocks)}.")
    inputs, pruned_inputs = stem, pruned_stem
    for place, ((block, stride), (hidden, outputs)) in enumerate(zip(blocks, pruned, strict=True)):
        expands = block["block_type"] == "ir"
        old_hidden = round_channels(inputs * block["exp_ratio"]) if expands else inputs
        old_outputs = round_channels(block["out_chs"], multiplier=width)
        residual = stride == 1 and inputs == old_outputs and not block["noskip"]
        reason = None
        if min(hidden, outputs) < 1 or (expands and hidden % 8):
            reason = "its hidden width is a multiple of 8"
        elif not expands and hidden != pruned_inputs:
            reason = f"it has no expansion, so its hidden width is that of its input, {pruned_inputs}"
        elif residual and outputs != pruned_inputs:
            reason = f"it is a residual, so it ends as wide as its input, {pruned_inputs}"
        if reason:
            raise UsageError(f"encoder block {place} cannot have the pruned widths {hidden}, {outputs}: {reason}.")
        block["out_chs"], block["noskip"] = outputs, not residual
        if expands:
            block["exp_ratio"] = hidden / pruned_inputs
        if block["se_ratio"]:
            block["se_ratio"] = round_channels(old_hidden * block["se_ratio"]) / hidden
        inputs, pruned_inputs = old_outputs, outputs
