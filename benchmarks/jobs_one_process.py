"""Jobs whose sides take turns in one process: a CT with its organs, an epoch on LIDC, a thousand samples of an image.

Seconds are those of the whole job once all is compiled and warm. What its first time takes, from the start of a process
to its end, is measured apart, in a process of its own for each side.
"""

import argparse
import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import alternate, jobs_process
from benchmarks.jobs_torch import make_weights

JOBS = ("score", "epoch_cmvae", "epoch_prob_unet", "samples_cmvae", "samples_prob_unet")
SAMPLES, LATENT = 1000, 6
_LONG_S = 5.0  # a call that needs no further warm-up
_MOST_APART = 1e-3  # of the pixels of both sides' samples

Maker = Callable[[], Callable[[], object]]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is measured.

    Attributes:
      facts: for the JSON.
      makers: of each side, a function that makes it ready and returns what runs the job once.
      compare: takes what the sides returned first; returns how far they are apart, raises where it is too far.
    """

    facts: dict
    makers: dict[str, Maker]
    compare: Callable[[dict], dict] = lambda first: {}


def row(name: str, data: Path, folder: Path, *, rounds: int, quick: bool) -> dict:
    """Measures a job; the steady state in one process, the whole in one for each side.

    Args:
      name: of `JOBS`.
      data: the shared data.
      folder: an empty one for all that is written.
      rounds: of both sides in turn.
      quick: a small job, one round.
    """
    path, how = folder / "row.json", json.dumps({"rounds": rounds, "quick": quick})
    jobs_process.printed([*jobs_process.own("steady"), name, data, folder, path, how], folder / "steady.log")
    found = json.loads(path.read_text())

    def whole(side: str) -> jobs_process.Run:
        command = [*jobs_process.own("once"), name, data, folder, json.dumps({"side": side, "quick": quick})]
        return jobs_process.printed(command, folder / f"{side}.log")[0]

    take = {side: functools.partial(whole, side) for side in found["sides"]}
    taken = jobs_process.in_rounds(take, rounds, quick=quick)
    for side, figures in jobs_process.summary(taken).items():
        found["sides"][side] |= {key: figures[key] for key in ("whole", "peak_gb")}
    return found


def steady(name: str, data: Path, folder: Path, *, rounds: int, quick: bool) -> dict:
    """Times both sides of a job in turn, without what comes before; compares what they return first."""
    job, takers, answers, first = make(name, data, folder, quick=quick), {}, {}, {}
    for side, maker in job.makers.items():
        run, kept = maker(), []
        first[side] = alternate.sample(lambda run=run, kept=kept: kept.append(run()), 1).seconds
        answers[side] = kept[0]
        calls = (
            1
            if quick or first[side] > _LONG_S
            else max(1, round(alternate.SHORTEST_S / alternate.sample(run, 1).seconds))
        )
        takers[side] = functools.partial(alternate.sample, run, calls)
    sides = alternate.summary(jobs_process.in_rounds(takers, rounds, quick=quick), "jaxseg")
    for side, found in sides.items():
        found["first_call_s"] = round(first[side], 3)
    return job.facts | {"sides": sides, "agreement": job.compare(answers)}


def once(name: str, data: Path, folder: Path, *, side: str, quick: bool) -> None:
    """Makes one side of a job ready and runs it once."""
    make(name, data, folder, quick=quick).makers[side]()()


def make(name: str, data: Path, folder: Path, *, quick: bool) -> Job:
    """Returns a job of `JOBS`; weights and copies of files are written into the folder unless they are there."""
    tempfile.tempdir = str(folder)  # what the sides leave behind goes with it
    job, _, network = name.partition("_")
    if job == "score":
        return score(data, folder, quick=quick)
    return {"epoch": epoch, "samples": samples}[job](network, data, folder, quick=quick)


def score(data: Path, folder: Path, *, quick: bool) -> Job:
    """Predicted Dice of the organs of a CT, as in score.py."""
    from benchmarks import score as scoring

    case = scoring.read_case(data / "ct" / "totalseg" / "s0001", 3 if quick else None)
    embeddings, weights = data / "segae" / "label_embedding.npz", folder / "segae.pth"
    if not weights.exists():
        scoring.make_weights(weights)
    options = argparse.Namespace(embeddings=embeddings)
    makers = {
        "jaxseg": lambda: scoring.jax_side(case, weights, embeddings),
        "torch": lambda: scoring.torch_side(case, weights, options),
    }
    facts = {"what": "predicted Dice of the organs of a CT, ten slices each", "item": "CT", "organs": len(case[1])}
    facts |= {"slices": sum(len(scoring.chosen(mask)) for mask, _ in case[1].values()), "ct": list(case[0].shape)}
    facts["note"] = "PyTorch's process loads JAX too, with the reader of text embeddings"
    return Job(facts, makers, lambda first: {"largest_difference": scoring.compare(first["jaxseg"], first["torch"])})


def epoch(network: str, data: Path, folder: Path, *, quick: bool) -> Job:
    """An epoch of training on LIDC, as in annotators_epoch.py."""
    from benchmarks.annotators import BATCH
    from benchmarks.annotators_epoch import jaxseg_epochs, torch_epochs

    root = few_slices(data / "lidc", folder / "lidc", 20) if quick else data / "lidc"
    makers = {"jaxseg": lambda: jaxseg_epochs(network, root), "torch": lambda: torch_epochs(network, root)}
    facts = {"what": f"an epoch of training on LIDC, {network}, batches of {BATCH}", "item": "epoch"}
    facts |= {"slices": len(list((root / "train" / "scans").iterdir()))}
    facts["note"] = "each process loads both JAX and PyTorch"
    return Job(facts, makers)


def samples(network: str, data: Path, folder: Path, *, quick: bool) -> Job:
    """Masks drawn on one image: jaxseg's sampler against PyTorch, where what all samples share is computed once too.

    "torch_repeating" makes a whole forward pass for each. Which of the two the originals' scripts do was not verified.
    """
    count, weights = 50 if quick else SAMPLES, folder / f"{network}.pt"
    path = sorted((data / "lidc" / "validate" / "scans").iterdir())[0]
    if not weights.exists():
        make_weights(weights)
    passes = functools.partial(forward_passes, network, weights, path, count)
    makers = {"jaxseg": functools.partial(sampler, weights, path, count)}
    makers |= {"torch": functools.partial(passes, reusing=True), "torch_repeating": passes}

    def compare(first: dict[str, np.ndarray]) -> dict[str, float]:
        import jax

        from jaxseg.annotators.draws import sample_noise

        noise = np.asarray(sample_noise(jax.random.key(0), count, LATENT))
        answers = {"torch": passes(noise=noise, reusing=True)(), "torch_repeating": passes(noise=noise)()}
        apart = {f"pixels_apart_{side}": float((masks != first["jaxseg"]).mean()) for side, masks in answers.items()}
        if max(apart.values()) > _MOST_APART:
            raise ValueError(f"with the same noise the sides draw other masks: {apart}")
        return apart | {"foreground": float(first["jaxseg"].mean())}

    what = f"{count:,} masks of one LIDC image, 64 x 64, {network}"
    return Job({"what": what, "item": f"{count:,} masks"}, makers, compare)


def sampler(weights: Path, path: Path, count: int) -> Callable[[], np.ndarray]:
    """Returns what draws masks (S, H, W) uint8 with jaxseg, and what they agree on besides."""
    import jaxseg
    from jaxseg.annotators.images import read_image

    drawing, image = jaxseg.Sampler(jaxseg.load(weights)), read_image(path)
    return lambda: jaxseg.sample(image, drawing, count, 0).masks


def forward_passes(
    network: str, weights: Path, path: Path, count: int, *, reusing: bool = False, noise: np.ndarray | None = None
) -> Callable[[], np.ndarray]:
    """Returns what draws masks (S, H, W) uint8 with PyTorch, one after the other.

    Args:
      network: "cmvae" or "prob_unet".
      weights: its state dict.
      path: a TIFF file.
      count: S.
      reusing: compute what all samples share once, not for each.
      noise: (S, Z), or None: it is drawn.
    """
    import tifffile
    import torch

    from benchmarks.torch_models import cmvae, prob_unet

    model = cmvae.CMVAE(1, 64, 24, 3, 2) if network == "cmvae" else prob_unet.ProbUNet()
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    image = torch.from_numpy(tifffile.imread(path).astype(np.float32))[None]

    def shared():
        return model(image)[0] if network == "cmvae" else (model.prior(image), model.unet(image))

    def finish(known, z):
        if network == "cmvae":
            return cmvae.noisy_logits(known, model.cm_network.decode(z), "sum").argmax(1)
        prior, features = known
        return model.fcomb(features, prob_unet.drawn(prior, z))[:, 0] > 0

    @torch.inference_mode()
    def run() -> np.ndarray:
        numbers = torch.randn(count, LATENT) if noise is None else torch.from_numpy(noise)
        once = shared() if reusing else None
        masks = [finish(once if reusing else shared(), z[None])[0].numpy().astype(np.uint8) for z in numbers]
        return np.stack(masks)

    return run


def few_slices(source: Path, folder: Path, count: int) -> Path:
    """Copies the first slices of each part of LIDC unless they are there, and returns the new folder."""
    if folder.exists():
        return folder
    for part in ("train", "validate"):
        for path in sorted((source / part / "scans").iterdir())[:count]:
            for kind in ("scans", "masks/GT", "masks/annots"):
                (folder / part / kind).mkdir(parents=True, exist_ok=True)
                shutil.copy(source / part / kind / path.name, folder / part / kind)
    return folder
