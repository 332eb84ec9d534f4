"""The CXAS and PAX-Ray U-Net in PyTorch: (B, 3, H, W) float32, ImageNet-normalised, to (B, K, H, W) logits."""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.torch_models.resnet import ResNet


class BackboneUNet(nn.Module):
    """ResNet-50 trunk and U-Net decoder, with the tensor names of the released checkpoints.

    As published, the last map is enlarged to the input size first and classified by the 1x1 convolution afterwards.
    Like every torch module, the model is built in training mode; call `.eval()` to predict.

    Source: Seibold et al. 2023, arXiv:2306.03934 (159 classes); Seibold et al. 2022, arXiv:2210.03416 (166 classes).
    """

    def __init__(self, num_classes: int = 159):
        super().__init__()
        self.backbone = _Backbone()
        self.head = _Head(self.backbone.backbone.channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)["logits"]

    def features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the logits and the feature maps by name."""
        f1, f2, f3, f4, f5 = self.backbone.backbone(x)
        named = {"feats_1_map": f1, "feats_2_map": f2, "feats_3_map": f3, "feats_4_map": f4, "feats_last_map": f5}
        named["feats_pooled"] = f5.mean(dim=(2, 3))
        named["up1"] = self.head.up1(f5, f4)
        named["up2"] = self.head.up2(named["up1"], f3)
        named["up3"] = self.head.up3(named["up2"], f2)
        named["up4"] = self.head.up4(named["up3"], f1)
        named["logits"] = self.head.out(_resize(named["up4"], x))
        return named


class _Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = ResNet("resnet50")


class _Head(nn.Module):
    def __init__(self, channels: list[int], num_classes: int):
        super().__init__()
        c1, c2, c3, c4, c5 = channels
        self.up1 = _FirstUp(c5, c4)
        self.up2 = _Up(c4 // 2 + c3, 256)
        self.up3 = _Up(256 + c2, 64)
        self.up4 = _Up(64 + c1, 128)
        self.out = _Out(128, num_classes)


class _FirstUp(nn.Module):
    """Halves the deepest map's channels before the first merge."""

    def __init__(self, deepest: int, skip: int):
        super().__init__()
        self.conv1 = _Conv(deepest, skip)
        self.conv2 = _DoubleConv(2 * skip, skip // 2)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.conv2(torch.cat([skip, _resize(self.conv1(x), skip)], dim=1))


class _Up(nn.Module):
    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.conv = _DoubleConv(cin, cout)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.cat([skip, _resize(x, skip)], dim=1))


class _Conv(nn.Module):
    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.conv = nn.Sequential(*_layers(cin, cout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class _DoubleConv(nn.Module):
    """Two convolutions; the first one halves the channels."""

    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.double_conv = nn.Sequential(*_layers(cin, cin // 2), *_layers(cin // 2, cout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.double_conv(x)


class _Out(nn.Module):
    def __init__(self, cin: int, num_classes: int):
        super().__init__()
        self.conv = nn.Conv2d(cin, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def _layers(cin: int, cout: int) -> list[nn.Module]:
    return [nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(inplace=True)]


def _resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns x bilinearly resized to the height and width of `like`."""
    return functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)
