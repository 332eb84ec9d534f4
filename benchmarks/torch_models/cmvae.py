"""The confusion-matrix VAE in PyTorch: (B, C, H, W) images to logits, confusion matrices and their latent Gaussian.

`NamedAnnotators` is the method that it builds on, with one confusion matrix per annotator.
"""

import torch
from torch import nn
from torch.nn import functional


class CMVAE(nn.Module):
    """U-Net with an autoencoder of the annotators' confusions, with the tensor names of the original's checkpoints.

    As published, the deepest map is enlarged, cropped back and concatenated with itself. `truncating` crops odd
    differences as PyTorch before 1.13 did.

    Source: rCampSemp/learn-vae-noisy-label.
    """

    def __init__(
        self,
        in_ch: int,
        resolution: int,
        width: int,
        depth: int,
        class_no: int,
        latent: int = 6,
        norm: str = "in",
        *,
        truncating: bool = False,
    ):
        super().__init__()
        widths = [width * 2**i for i in range(depth - 1)] + [width * 2 ** (depth - 2)]
        outputs = [width, *widths[:-2], widths[-1]]
        below = [*outputs[1:], widths[-1]]
        self.truncating = truncating
        self.decoders = nn.ModuleList(
            [_block(skip + deep, out, 1, norm) for skip, deep, out in zip(widths, below, outputs, strict=True)]
        )
        inputs = [in_ch, *widths[:-1]]
        self.encoders = nn.ModuleList(
            [_block(cin, cout, 2 if i else 1, norm) for i, (cin, cout) in enumerate(zip(inputs, widths, strict=True))]
        )
        self.cm_network = Confusion(width, resolution, class_no, latent)
        self.conv_last = nn.Conv2d(width, class_no, 1)

    def forward(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """Returns logits (B, K, H, W), matrices (B, K K H W), mean and log variance (B, Z).

        Without noise (B, Z), it is sampled.
        """
        features = self.features(x)["decoder0"]
        return self.conv_last(features), *self.cm_network(features, noise)

    def features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the output of every level by name."""
        named, skips = {}, []
        for i, level in enumerate(self.encoders):
            named[f"encoder{i}"] = x = level(x)
            skips.append(x)
        for i in reversed(range(len(skips))):
            x = fitted(upsampled(x), skips[i], truncating=self.truncating)
            named[f"decoder{i}"] = x = self.decoders[i](torch.cat([skips[i], x], 1))
        return named


class Confusion(nn.Module):
    """The autoencoder of confusion matrices."""

    def __init__(self, width: int, resolution: int, class_no: int, latent: int):
        super().__init__()
        self.fc_encoder = nn.Linear(width * resolution**2, latent // 2)
        self.fc_decoder = nn.Linear(latent, resolution**2 * class_no**2)
        self.fc_mu = nn.Linear(latent // 2, latent)
        self.fc_var = nn.Linear(latent // 2, latent)

    def forward(self, features: torch.Tensor, noise: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        hidden = torch.relu(self.fc_encoder(features.flatten(1)))
        mean, log_variance = self.fc_mu(hidden), self.fc_var(hidden)
        noise = torch.randn_like(mean) if noise is None else noise
        return self.decode(mean + noise * torch.exp(0.5 * log_variance)), mean, log_variance

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Maps latent vectors (B, Z) to matrices (B, K K H W)."""
        return functional.softplus(self.fc_decoder(z))


def noisy_logits(logits: torch.Tensor, matrices: torch.Tensor, normalisation: str = "softmax") -> torch.Tensor:
    """Returns the product (B, K, H, W) of every pixel's matrix, normalised by "softmax" or "sum", and its logits."""
    batch, classes, height, width = logits.shape
    matrices = matrices.view(batch, classes, classes, height, width)
    matrices = matrices.softmax(1) if normalisation == "softmax" else matrices / matrices.sum(1, keepdim=True)
    return torch.einsum("bijhw,bjhw->bihw", matrices, logits)


def loss(
    outputs: tuple[torch.Tensor, ...], labels: torch.Tensor, kl_weight: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns the loss of the outputs for class indices (B, H, W), which counts the KL term twice, and its parts."""
    logits, matrices, mean, log_variance = outputs
    noisy, labels = noisy_logits(logits, matrices), labels.long()
    parts = {
        "reconstruction": functional.cross_entropy(noisy, labels),
        "segmentation": functional.cross_entropy(logits, labels),
        "pseudo_label": functional.cross_entropy(noisy, logits.argmax(1)),
        "kl": kl_weight * (-0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)).mean(),
    }
    return sum(parts.values()) + parts["kl"], parts


class NamedAnnotators(CMVAE):
    """The same U-Net with a network per annotator: images to logits and a list of matrices (B, K K, H, W).

    Source: Zhang et al. 2020, arXiv:2007.15963, as in rCampSemp/learn-vae-noisy-label.
    """

    def __init__(self, in_ch: int, width: int, depth: int, class_no: int, annotators: int = 4, norm: str = "in"):
        super().__init__(in_ch, 8, width, depth, class_no, norm=norm)
        del self.cm_network
        networks = [AnnotatorNetwork(width, class_no, norm) for _ in range(annotators)]
        self.decoders_noisy_layers = nn.ModuleList(networks)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        features = self.features(x)["decoder0"]
        return self.conv_last(features), [network(features) for network in self.decoders_noisy_layers]


class AnnotatorNetwork(nn.Module):
    """Maps features to the confusion matrices of one annotator."""

    def __init__(self, width: int, class_no: int, norm: str):
        super().__init__()
        self.conv_1, self.conv_2 = _block(width, width, 1, norm), _block(width, width, 1, norm)
        self.conv_last = nn.Conv2d(width, class_no**2, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return functional.softplus(self.conv_last(self.conv_2(self.conv_1(features))))


def named_loss(
    logits: torch.Tensor,
    matrices: list[torch.Tensor],
    labels: torch.Tensor,
    trace_weight: float,
    *,
    softmax_twice: bool,
) -> torch.Tensor:
    """Returns the trace-regularised loss for class indices (B, A, H, W) of every annotator."""
    batch, classes, height, width = logits.shape
    total = logits.new_zeros(())
    for each, label in zip(matrices, labels.unbind(1), strict=True):
        noisy = noisy_logits(logits.softmax(1), each, "sum").contiguous()
        normal = each.view(batch, classes, classes, height, width)
        normal = normal / normal.sum(1, keepdim=True)
        trace = torch.diagonal(normal, dim1=1, dim2=2).sum(-1).mean()
        fit = functional.cross_entropy(noisy, label) if softmax_twice else functional.nll_loss(noisy.log(), label)
        total = total + fit + trace_weight * trace
    return total


def upsampled(x: torch.Tensor) -> torch.Tensor:
    """Returns a map at twice its size, interpolated bilinearly with aligned corners."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def fitted(x: torch.Tensor, like: torch.Tensor, *, truncating: bool) -> torch.Tensor:
    """Returns a map padded or cropped to the size of another map."""
    padding = []
    for axis in (3, 2):
        missing = like.shape[axis] - x.shape[axis]
        before = int(missing / 2) if truncating else missing // 2
        padding += [before, missing - before]
    return functional.pad(x, padding) if any(padding) else x


def _block(cin: int, cout: int, stride: int, norm: str) -> nn.Sequential:
    make = {
        "in": lambda: nn.InstanceNorm2d(cout, affine=True),
        "bn": lambda: nn.BatchNorm2d(cout),
        "gn": lambda: nn.GroupNorm(cout // 8, cout),
        "ln": lambda: nn.GroupNorm(cout, cout),
    }[norm]
    first = [nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False), make(), nn.PReLU()]
    return nn.Sequential(*first, nn.Conv2d(cout, cout, 3, padding=1, bias=False), make(), nn.PReLU())
