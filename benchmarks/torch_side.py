"""PyTorch's side of the throughput: our definitions of the originals, as published or tuned."""

import contextlib
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from benchmarks.torch_models import cmvae
from benchmarks.torch_models.cmvae import CMVAE
from benchmarks.torch_models.dae import DAE
from benchmarks.torch_models.prob_unet import ProbUNet
from benchmarks.torch_models.segae import QualitySentinel
from benchmarks.torch_models.unet import BackboneUNet
from benchmarks.worker import RATE, WORKLOADS, inputs

_BELOW = ((0.3, 7.0), (0.5, 5.0), (0.7, 3.0), (0.9, 2.0))  # true Dice up to this -> weight; above: 1


def make(model: str, what: str, batch: int, dtype: str, *, tuned: bool) -> tuple[Callable[[], None], dict]:
    """Returns a function that runs once and waits for the result, and the seconds of the first call.

    Args:
      model: a key of `WORKLOADS`.
      what: "inference" or "training step".
      batch: number of examples.
      dtype: "float32", or "bfloat16" under autocast.
      tuned: True: channels last, compiled, with frozen weights in inference (which excludes `torch.inference_mode`)
        and a fused optimizer; on GPUs the fastest convolutions are searched. False: eager, NCHW, PyTorch's defaults;
        on GPUs these allow TF32 in convolutions, whereas jaxseg's float32 is full float32.
    """
    torch.backends.cudnn.benchmark = tuned
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    network = _network(model).to(device)
    given = {name: _placed(array, device, tuned=tuned) for name, array in inputs(model, batch).items()}
    network.train(what != "inference")
    if tuned:
        network = network.to(memory_format=torch.channels_last)
    arithmetic = contextlib.nullcontext
    if dtype == "bfloat16":
        arithmetic = lambda: torch.autocast(device, torch.bfloat16)  # noqa: E731
    make_run = _inference if what == "inference" else _training
    body = make_run(model, network, given, arithmetic, tuned=tuned)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def run() -> None:
        body()
        wait()

    start = time.perf_counter()
    run()
    first = time.perf_counter() - start
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return run, {"compile_s": round(first, 2), "device": name, "threads": torch.get_num_threads()}


def _placed(array: np.ndarray, device: str, *, tuned: bool) -> torch.Tensor:
    tensor = torch.from_numpy(array).to(device)
    if tensor.ndim != 4:
        return tensor
    tensor = tensor.permute(0, 3, 1, 2)
    return tensor.contiguous(memory_format=torch.channels_last if tuned else torch.contiguous_format)


def _network(model: str) -> torch.nn.Module:
    work = WORKLOADS[model]
    return {
        "unet": lambda: BackboneUNet(work.outputs),
        "post_dae": lambda: DAE(image_size=work.image[:2]),
        "segae": QualitySentinel,
        "cmvae": lambda: CMVAE(1, work.image[0], 24, 3, 2),
        "prob_unet": ProbUNet,
    }[model]()


def _inference(model: str, network: torch.nn.Module, given: dict, arithmetic: Callable, *, tuned: bool) -> Callable:
    arguments = [given[name] for name in ("image", "embedding") if name in given]
    answer = network.forward
    if model == "cmvae":  # only the segmentation, without the autoencoder

        def answer(x):
            return network.conv_last(network.features(x)["decoder0"])

    if model == "prob_unet":  # at the prior's mean

        def answer(x):
            return network.fcomb(network.unet(x), network.prior(x).mean)

    if tuned:
        torch._inductor.config.freezing = True
        answer = torch.compile(answer)

    def run() -> None:
        with torch.inference_mode() if not tuned else torch.no_grad(), arithmetic():
            answer(*arguments)

    return run


def _training(model: str, network: torch.nn.Module, given: dict, arithmetic: Callable, *, tuned: bool) -> Callable:
    optimizer = _optimizer(model, network, fused=tuned)
    loss = _LOSSES[model]
    objective = torch.compile(lambda: loss(network, given)) if tuned else lambda: loss(network, given)

    def run() -> None:
        with arithmetic():
            value = objective()
        optimizer.zero_grad()
        value.backward()
        if model == "post_dae":
            torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()

    return run


def _optimizer(model: str, network: torch.nn.Module, *, fused: bool) -> torch.optim.Optimizer:
    options = {"fused": True} if fused else {}
    if model in ("post_dae", "segae"):
        return torch.optim.Adam(network.parameters(), RATE, **options)
    return torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-3, **options)


def _unet(network: torch.nn.Module, given: dict) -> torch.Tensor:
    logits, target = network(given["image"]).float(), given["target"]
    p, t = torch.sigmoid(logits).flatten(1), target.flatten(1)
    dice = 1 - ((p * t).sum(1) + 1) / ((p * p + t * t).sum(1) + 1)
    return functional.binary_cross_entropy_with_logits(logits, target) + dice.mean()


def _post_dae(network: torch.nn.Module, given: dict) -> torch.Tensor:
    answer, target = network(given["image"]).float(), given["target"]
    overlap = (answer * target).sum((2, 3))
    return 1 - ((2 * overlap + 1e-5) / (answer.sum((2, 3)) + target.sum((2, 3)) + 1e-5)).mean()


def _segae(network: torch.nn.Module, given: dict) -> torch.Tensor:
    predicted, true = network(given["image"], given["embedding"]).float()[:, 0], given["target"]
    weight = torch.ones_like(true)
    for bound, value in reversed(_BELOW):
        weight = torch.where(true <= bound, value, weight)
    return (weight * (predicted - true) ** 2).mean()


def _cmvae(network: torch.nn.Module, given: dict) -> torch.Tensor:
    logits, *rest = network(given["image"], given["noise"])
    return cmvae.loss((logits.float(), *(one.float() for one in rest)), given["target"][:, 0], 1.0)[0]


def _prob_unet(network: torch.nn.Module, given: dict) -> torch.Tensor:
    return network.loss(given["image"], given["target"], given["noise"])[0]


_LOSSES = {"unet": _unet, "post_dae": _post_dae, "segae": _segae, "cmvae": _cmvae, "prob_unet": _prob_unet}
