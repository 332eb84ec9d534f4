"""Predictors with tiny models, and their answers; as a program, it reads them from a file and computes the answers."""

import os
import pickle
import sys
from pathlib import Path

import numpy as np

MASK = np.zeros((40, 50), bool)
MASK[10:30, 12:40] = True
TINY_DAE = {"features": (4, 6), "strides": (2, 2), "decoder_features": (4, 4), "intermediate": (8, 16)}


def predictors() -> dict:
    """Returns one predictor of each class; the Segmenter's masks are restored by the Denoiser."""
    import scoring_files

    import jaxseg

    denoiser = jaxseg.Denoiser(jaxseg.create("post_dae", image_size=(32, 32), **TINY_DAE), batch_size=2)
    network = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
    postprocess = denoiser.postprocess(["heart"])
    return {
        "segmenter": jaxseg.Segmenter(network, postprocess=postprocess, batch_size=2),
        "denoiser": denoiser,
        "scorer": jaxseg.Scorer(scoring_files.model(), slices=3),
        "sampler": jaxseg.Sampler(jaxseg.create("cmvae", image_size=(16, 24), width=8, depth=2)),
    }


def answers(found: dict) -> dict[str, np.ndarray]:
    """Returns what the predictors compute for the same inputs."""
    import scoring_files

    from jaxseg.segae.score import Request

    image = np.random.default_rng(0).integers(0, 255, (60, 70), np.uint8)
    request = Request(scoring_files.ct(), scoring_files.box() > 0, found["scorer"].organ("liver"))
    sampler = found["sampler"]
    samples = sampler.draw(sampler.prepare(np.linspace(0, 1, 16 * 24).reshape(16, 24)), 3, 0)
    return {
        "masks": found["segmenter"](image).masks,
        "restored": found["denoiser"].probabilities([MASK])[0],
        "dice": np.float32(next(found["scorer"].scores([request])).dice),
        "samples": samples.masks,
        "confusion": samples.confusion,
    }


def main(source: str, result: str, how: str) -> None:
    """Reads predictors, and computes their answers in this process, or in a child that it forks.

    Args:
      source: file of the pickled predictors.
      result: .npz file for the answers.
      how: "spawn" to compute in this process, "fork" to compute in a child.
    """
    found = pickle.loads(Path(source).read_bytes())  # noqa: S301
    from jax._src import xla_bridge

    assert not xla_bridge._backends  # reading them starts no device
    if how == "fork" and (child := os.fork()):
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    np.savez(result, **answers(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
