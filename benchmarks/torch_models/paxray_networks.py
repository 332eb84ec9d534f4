"""The two other networks of PAX-Ray's original in PyTorch: a plain U-Net, and a feature pyramid on a ResNet.

Images are (B, 3, H, W) float32, normalised; the logits are (B, K, H, W). The tensor names are those of the original's
checkpoints. Source: Seibold et al. 2022, arXiv:2210.03416.
"""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.torch_models.resnet import ResNet


class PlainUNet(nn.Module):
    """U-Net with four halvings by max-pooling, and bilinear enlargement."""

    def __init__(self, num_classes: int, width: int = 64, in_channels: int = 3):
        super().__init__()
        self.inc = _Double(in_channels, width, width)
        self.down1 = _Down(width, 2 * width)
        self.down2 = _Down(2 * width, 4 * width)
        self.down3 = _Down(4 * width, 8 * width)
        self.down4 = _Down(8 * width, 8 * width)
        self.up1 = _Up(16 * width, 4 * width)
        self.up2 = _Up(8 * width, 2 * width)
        self.up3 = _Up(4 * width, width)
        self.up4 = _Up(2 * width, width)
        self.outc = _Out(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = [self.inc(x)]
        for down in (self.down1, self.down2, self.down3, self.down4):
            maps.append(down(maps[-1]))
        x = maps.pop()
        for up in (self.up1, self.up2, self.up3, self.up4):
            x = up(x, maps.pop())
        return self.outc(x)


class FeaturePyramid(nn.Module):
    """ResNet, feature pyramid as torchvision builds it, and a head that adds the enlarged maps."""

    def __init__(self, num_classes: int, variant: str = "resnet50"):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.backbone = ResNet(variant)
        self.fpn = _Pyramid(self.backbone.backbone.channels[1:], 256)
        self.seg_fpn = nn.Module()
        self.seg_fpn.module = nn.ModuleDict({"layer1": nn.Conv2d(256, 128, 3, padding=1)})
        for level in range(1, 4):
            steps = [_Step(256 if j == 0 else 128, 128) for j in range(level)]
            self.seg_fpn.module[f"layer{level + 1}"] = nn.Sequential(*steps)
        self.pred_conv = nn.Conv2d(128, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pyramid = self.fpn(self.backbone.backbone(x)[1:])
        total = sum(self.seg_fpn.module[f"layer{i + 1}"](found) for i, found in enumerate(pyramid))
        return functional.interpolate(self.pred_conv(total), x.shape[2:], mode="bilinear")


class _Double(nn.Module):
    def __init__(self, cin: int, middle: int, cout: int):
        super().__init__()
        layers = [
            [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()] for i, o in ((cin, middle), (middle, cout))
        ]
        self.double_conv = nn.Sequential(*layers[0], *layers[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.double_conv(x)


class _Down(nn.Module):
    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), _Double(cin, cout, cout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maxpool_conv(x)


class _Up(nn.Module):
    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.conv = _Double(cin, cin // 2, cout)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = functional.interpolate(x, skip.shape[2:], mode="bilinear")
        return self.conv(torch.cat([skip, x], dim=1))


class _Out(nn.Module):
    def __init__(self, cin: int, num_classes: int):
        super().__init__()
        self.conv = nn.Conv2d(cin, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class _Pyramid(nn.Module):
    def __init__(self, channels: list[int], width: int):
        super().__init__()
        self.inner_blocks = nn.ModuleList([nn.Conv2d(cin, width, 1) for cin in channels])
        self.layer_blocks = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in channels])
        self.extra_blocks = nn.Module()  # two coarser maps that the head does not use
        self.extra_blocks.p6 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.extra_blocks.p7 = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        x, found = None, []
        for lateral, smooth, finer in zip(
            reversed(self.inner_blocks), reversed(self.layer_blocks), reversed(maps), strict=True
        ):
            here = lateral(finer)
            x = here if x is None else here + functional.interpolate(x, here.shape[2:], mode="nearest")
            found.insert(0, smooth(x))
        return found


class _Step(nn.Module):
    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.GroupNorm(32, cout), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(self.conv(x), scale_factor=2, mode="bilinear")
