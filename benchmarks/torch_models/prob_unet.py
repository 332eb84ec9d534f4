"""The probabilistic U-Net in PyTorch: (B, C, H, W) images to (B, 1, H, W) logits."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional

from benchmarks.torch_models.cmvae import fitted, upsampled


class ProbUNet(nn.Module):
    """U-Net, prior and posterior encoders, and 1x1 convolutions that combine them, with the original's tensor names.

    `truncating` crops odd differences as PyTorch before 1.13 did.

    Source: Kohl et al. 2018, arXiv:1806.05034, as in rCampSemp/learn-vae-noisy-label.
    """

    def __init__(
        self,
        input_channels: int = 1,
        num_classes: int = 2,
        num_filters: Sequence[int] = (4, 8, 16, 32),
        latent_dim: int = 6,
        no_convs_fcomb: int = 2,
        beta: float = 5.0,
        *,
        truncating: bool = False,
    ):
        super().__init__()
        self.beta = beta
        outputs = 1 if num_classes == 2 else num_classes
        self.unet = _UNet(input_channels, list(num_filters), truncating=truncating)
        self.prior = Encoder(input_channels, num_filters, latent_dim)
        self.posterior = Encoder(input_channels + 1, num_filters, latent_dim)
        self.fcomb = Combine(num_filters[0], latent_dim, outputs, no_convs_fcomb)

    def forward(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the logits of one sample per image. Without noise (B, Z), it is sampled."""
        prior = self.prior(x)
        return self.fcomb(self.unet(x), latent_vectors(prior, noise))

    def loss(
        self, x: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor | None = None, *, sampled_kl: bool = False
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns the training loss for images and masks (B, 1, H, W), and its parts."""
        prior, posterior = self.prior(x), self.posterior(torch.cat([x, mask], 1))
        z = latent_vectors(posterior, noise)
        logits = self.fcomb(self.unet(x), z)
        kl = posterior.log_prob(z) - prior.log_prob(z) if sampled_kl else kl_divergence(posterior, prior)
        norms = [p.norm() for part in (self.posterior, self.prior, self.fcomb.layers) for p in part.parameters()]
        parts = {
            "reconstruction": functional.binary_cross_entropy_with_logits(logits, mask),
            "kl": self.beta * kl.mean(),
            "l2": 1e-5 * torch.stack(norms).sum(),
        }
        return sum(parts.values()), parts


def latent_vectors(gaussian: Independent, noise: torch.Tensor | None) -> torch.Tensor:
    """Returns latent vectors (B, Z) of a Gaussian, from the noise (B, Z) if there is any."""
    return gaussian.rsample() if noise is None else gaussian.mean + gaussian.stddev * noise


class _UNet(nn.Module):
    def __init__(self, cin: int, filters: list[int], *, truncating: bool):
        super().__init__()
        self.truncating = truncating
        inputs = [cin, *filters[:-1]]
        self.contracting_path = nn.ModuleList(
            [_Block(n, m, pool=i > 0) for i, (n, m) in enumerate(zip(inputs, filters, strict=True))]
        )
        pairs = zip(filters[:0:-1], filters[-2::-1], strict=True)
        self.upsampling_path = nn.ModuleList([_Up(deep + skip, skip) for deep, skip in pairs])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maps(x)[f"up{len(self.upsampling_path) - 1}"]

    def maps(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the output of every level by name."""
        named, bridges = {}, []
        for i, level in enumerate(self.contracting_path):
            named[f"down{i}"] = x = level(x)
            bridges.append(x)
        for i, (level, bridge) in enumerate(zip(self.upsampling_path, bridges[-2::-1], strict=True)):
            x = fitted(upsampled(x), bridge, truncating=self.truncating)
            named[f"up{i}"] = x = level.conv_block(torch.cat([x, bridge], 1))
        return named


class _Up(nn.Module):
    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.conv_block = _Block(cin, cout, pool=False)


class _Block(nn.Module):
    """Two convolutions, each with instance norm and ReLU, after an optional pooling."""

    def __init__(self, cin: int, cout: int, *, pool: bool):
        super().__init__()
        layers = [_pool()] if pool else []
        for channels in (cin, cout):
            norm = nn.InstanceNorm2d(cout, affine=True)
            layers += [nn.Conv2d(channels, cout, 3, padding=1, bias=False), norm, nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Encoder(nn.Module):
    """Encoder of an image to the Gaussian of its latent vector."""

    def __init__(self, cin: int, filters: Sequence[int], latent: int):
        super().__init__()
        layers = []
        for i, (n, m) in enumerate(zip((cin, *filters), filters, strict=False)):
            layers += [_pool()] if i else []
            layers += [nn.Conv2d(n, m, 3, padding=1, bias=False), nn.InstanceNorm2d(m, affine=True), nn.ReLU()]
            layers += [nn.Conv2d(m, m, 3, padding=1), nn.ReLU()]
        self.encoder = nn.Module()
        self.encoder.layers = nn.Sequential(*layers)
        self.conv_layer = nn.Conv2d(filters[-1], 2 * latent, 1)

    def forward(self, x: torch.Tensor) -> Independent:
        means = self.encoder.layers(x).mean((2, 3), keepdim=True)
        mean, log_sigma = self.conv_layer(means)[:, :, 0, 0].chunk(2, 1)
        return Independent(Normal(mean, log_sigma.exp()), 1)


class Combine(nn.Module):
    """1x1 convolutions of the features and a latent vector, which is the same at every pixel."""

    def __init__(self, width: int, latent: int, outputs: int, num_convs: int):
        super().__init__()
        layers = [nn.Conv2d(width + latent, width, 1), nn.ReLU()]
        for _ in range(num_convs - 2):
            layers += [nn.Conv2d(width, width, 1), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.last_layer = nn.Conv2d(width, outputs, 1)

    def forward(self, features: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        z = z[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return self.last_layer(self.layers(torch.cat([features, z], 1)))


def _pool() -> nn.AvgPool2d:
    return nn.AvgPool2d(2, 2, ceil_mode=True)
