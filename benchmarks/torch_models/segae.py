"""SegAE / Quality Sentinel in PyTorch: (B, 2, H, W) CT slice and mask, (B, 512) text embedding to (B, 1) Dice."""

import torch
from torch import nn

from benchmarks.torch_models.resnet import ResNet


class QualitySentinel(nn.Module):
    """ResNet with its own stem and two text-conditioned layers, with the tensor names of the released checkpoint.

    As published, it also holds torchvision's own stem and classifier, which it never uses, and its output is not
    bounded. Like every torch module, the model is built in training mode; call `.eval()` to predict.

    Source: Chen et al. 2024, arXiv:2406.00327, as in Schuture/Quality-Sentinel.
    """

    def __init__(self, hidden_dim: int = 50, backbone: str = "resnet50", embedding_size: int = 512):
        super().__init__()
        self.net = _Net(backbone)
        size = self.net.fc.in_features
        self.conv1 = nn.Conv2d(2, 64, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(64)
        self.fc1 = nn.Linear(size, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, 1)
        self.attention1 = nn.Linear(size + embedding_size, size)
        self.attention2 = nn.Linear(size + embedding_size, hidden_dim)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        return self.features(x, embedding)["out"]

    def features(self, x: torch.Tensor, embedding: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the predicted Dice and the output of every stage by name."""
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        named = {"stem": x}
        for name in ("layer1", "layer2", "layer3", "layer4"):
            named[name] = x = getattr(self.net, name)(x)
        named["pooled"] = pooled = x.mean(dim=(2, 3))
        both = torch.cat([pooled, embedding], dim=1)
        named["attention1"] = self.attention1(both)
        named["attention2"] = self.attention2(both)
        named["fc1"] = self.fc1(named["attention1"] * pooled)
        named["out"] = self.fc2(named["attention2"] * named["fc1"])
        return named


class _Net(nn.Module):
    """The tensors of torchvision's ResNet. Only its four stages are used."""

    def __init__(self, variant: str):
        super().__init__()
        trunk = ResNet(variant)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1, self.layer2, self.layer3, self.layer4 = trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4
        self.fc = nn.Linear(trunk.channels[-1], 1000)
