"""The networks, as flax NNX modules; arrays are (B, H, W, C)."""

import dataclasses
import importlib

# architecture -> (module, model class, config class); modules are imported when asked for
ARCHITECTURES = {
    "unet": ("jaxseg.anatomy.unet", "UNet", "UNetConfig"),
    "dae": ("jaxseg.post_dae.model", "DAE", "DAEConfig"),
    "segae": ("jaxseg.segae.model", "SegAE", "SegAEConfig"),
    "cmvae": ("jaxseg.annotators.cmvae", "CMVAE", "CMVAEConfig"),
    "prob_unet": ("jaxseg.annotators.prob_unet", "ProbUNet", "ProbUNetConfig"),
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A model class, its config class and its PyTorch names; `torch_unused(cfg)` are tensors it has no use for.

    `config_from_modules(cfg, modules)` completes a config where a file holds the modules themselves.
    """

    model: type
    config: type
    torch_names: object
    config_from_shapes: object
    torch_unused: object
    config_from_modules: object

    def make_config(self, **values):
        """Returns a config; an unknown or impossible value is a ValueError that lists what is allowed."""
        known = [field.name for field in dataclasses.fields(self.config)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown hyper-parameter {', '.join(unknown)}; known: {', '.join(known)}")
        return self.config(**values)


def architecture(name: str) -> Architecture:
    """Returns an architecture by its key in `ARCHITECTURES`."""
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    module_name, model, config = ARCHITECTURES[name]
    module = importlib.import_module(module_name)
    return Architecture(
        getattr(module, model),
        getattr(module, config),
        module.torch_names,
        module.config_from_shapes,
        getattr(module, "torch_unused", lambda cfg: ()),
        getattr(module, "config_from_modules", None),
    )
