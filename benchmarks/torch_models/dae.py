"""Post-DAE's denoising autoencoder in PyTorch: (B, C, H, W) masks in [0, 1] to (B, C', H, W) probabilities."""

import math
from collections.abc import Sequence

import torch
from torch import nn


class DAE(nn.Module):
    """Encoder, two or more linear layers and decoder, with the tensor names of the original's checkpoints.

    As published, every level of the decoder ends with a sigmoid, the linear layers have one ReLU, after the first of
    them, and the last number of `intermediate` has no effect. Height and width must be multiples of the product of the
    strides. The last two of `decoder_features` are equal.

    Source: Larrazabal et al. 2020, doi 10.1109/TMI.2020.3005297, as in balazsborsos/dae_postprocessing.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        image_size: Sequence[int] = (512, 512),
        features: Sequence[int] = (16, 32, 32, 32, 32),
        decoder_features: Sequence[int] = (16, 16, 16, 16, 16),
        intermediate: Sequence[int] = (512, 1024),
        strides: Sequence[int] | None = None,
    ):
        super().__init__()
        strides = [2] * len(features) if strides is None else list(strides)
        step = math.prod(strides)
        self.code = (features[-1], image_size[0] // step, image_size[1] // step)
        last = len(features) - 1
        self.encode = nn.Sequential()
        for i, (cin, cout) in enumerate(zip((in_channels, *features), features, strict=False)):
            self.encode.add_module(f"encode_{i}", _Encode(cin, cout, strides[i], twice=i < last))
        flat = math.prod(self.code)
        self.intermediate = nn.Sequential()
        widths = (flat, *intermediate[:-1], flat)
        for i, (cin, cout) in enumerate(zip(widths, widths[1:], strict=False)):
            self.intermediate.add_module(f"inter_{i}", nn.Linear(cin, cout))
            if i == 0:
                self.intermediate.add_module("act", nn.ReLU())
        self.decode = nn.Sequential()
        for i, (cin, cout) in enumerate(zip((features[-1], *decoder_features), decoder_features, strict=False)):
            out = out_channels if i == last else cout
            self.decode.add_module(f"decode_{i}", _Decode(cin, cout, out, strides[last - i]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)["out"]

    def features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the probabilities and the output of every level by name."""
        named = {}
        for name, level in self.encode.named_children():
            named[name] = x = level(x)
        named["intermediate"] = x = self.intermediate(x.flatten(1))
        x = x.unflatten(1, self.code)
        for name, level in self.decode.named_children():
            named[name] = x = level(x)
        return named | {"out": x}


class _Encode(nn.Module):
    """A convolution with a stride and, in most levels, one without."""

    def __init__(self, cin: int, cout: int, stride: int, *, twice: bool):
        super().__init__()
        self.conv0 = nn.Conv2d(cin, cout, 3, stride, padding=1)
        self.conv1 = nn.Conv2d(cout, cout, 3, padding=1) if twice else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv0(x))
        return x if self.conv1 is None else torch.relu(self.conv1(x))


class _Decode(nn.Module):
    """A transposed convolution and a convolution."""

    def __init__(self, cin: int, mid: int, cout: int, stride: int):
        super().__init__()
        self.upconv0 = nn.ConvTranspose2d(cin, mid, 3, stride, padding=1, output_padding=1)
        self.conv0 = nn.Conv2d(mid, cout, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.conv0(torch.relu(self.upconv0(x))))
