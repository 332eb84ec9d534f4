"""An epoch of training on LIDC: jaxseg's loop, and PyTorch with the original's data loading.

A function imports only the framework that it uses, so that its process does not load both.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

BATCH = 5
BETA = {"cmvae": 20.0, "prob_unet": 5.0}


def torch_side(network: str) -> tuple:
    """Returns a new network and its optimizer, with the original's values."""
    import torch

    from benchmarks.torch_models import cmvae, prob_unet

    model = cmvae.CMVAE(1, 64, 24, 3, 2) if network == "cmvae" else prob_unet.ProbUNet()
    return model, torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=1e-3)


def torch_epoch(model, optimizer, root: Path, network: str, rng: np.random.Generator, weight: float) -> float:
    """Trains an epoch as the original does, and returns the last loss."""
    from benchmarks.torch_models import cmvae

    count = len(list((root / "scans").iterdir()))
    for indices in rng.permutation(count)[: count // BATCH * BATCH].reshape(-1, BATCH):
        image, mask = read_batch(root, indices, rng)
        if network == "cmvae":
            value, _ = cmvae.loss(model(image), mask[:, 0], weight)
        else:
            value, _ = model.loss(image, mask)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return value.item()


def read_batch(root: Path, indices: np.ndarray, rng: np.random.Generator) -> tuple:
    """Returns images and one annotator's masks, (B, 1, H, W) each; every item lists the folder and opens its files."""
    import tifffile
    import torch

    images, annotations = [], []
    for index in indices:
        name = sorted(path.name for path in (root / "scans").iterdir())[index]
        image = tifffile.imread(root / "scans" / name).astype(np.float32)
        tifffile.imread(root / "masks" / "GT" / name)  # the original also reads it for every item
        marks = tifffile.imread(root / "masks" / "annots" / name)[0].transpose(2, 0, 1).astype(np.float32)
        if rng.random() < 0.5:
            image, marks = image[:, ::-1, ::-1], marks[:, ::-1, ::-1]
        images.append(image.copy())
        annotations.append(marks.copy())
    most = max(map(len, annotations))
    padded = [np.concatenate([a, a[rng.choice(len(a), most - len(a))]]) for a in annotations]
    chosen = np.stack(padded)[:, rng.integers(most)][:, None]
    return torch.from_numpy(np.stack(images)), torch.from_numpy(chosen)


def jaxseg_epochs(network: str, data: Path) -> Callable[[], dict[str, float]]:
    """Returns a function that trains an epoch with jaxseg, as `jaxseg train` does between validations.

    It returns the "loss" of the last batch.
    """
    import jax

    from jaxseg.training.batches import prefetch_to_device, training_batches
    from jaxseg.training.config.config import read_config
    from jaxseg.training.plan import make_plan
    from jaxseg.training.task import make_task

    config = read_config(f"{network}_lidc", overrides=["data.draw=batch", f"data.root={data}"])
    plan = make_plan(config, make_task(config), Path(tempfile.mkdtemp()), devices=jax.devices())
    compiled, state = plan.placement.compile(plan.learner), plan.placement.put_state(plan.fresh_state())
    batches = training_batches(
        plan.task.splits["train"],
        plan.task.augment,
        batch_size=config.trainer.batch_size,
        seed=config.seed,
        threads=config.data.threads,
    )
    put = plan.placement.put_batch
    stream = prefetch_to_device(batches, lambda batch: put({k: v for k, v in batch.items() if k != "index"}))

    def epoch() -> dict[str, float]:
        nonlocal state
        for _ in range(plan.steps_per_epoch):
            state, metrics = compiled(state, next(stream)[0])
        return {"loss": float(metrics["loss"])}

    return epoch


def torch_epochs(network: str, data: Path) -> Callable[[], dict[str, float]]:
    """Returns a function that trains an epoch with PyTorch and reads the files again for every item."""
    (model, optimizer), rng = torch_side(network), np.random.default_rng(0)
    return lambda: {"loss": torch_epoch(model, optimizer, data / "train", network, rng, BETA[network])}
