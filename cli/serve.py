"""`jaxseg serve`: a page and an API over HTTP, for X-rays, masks and volumes."""

import logging
import sys
from pathlib import Path

import click

from jaxseg.cli import console, options
from jaxseg.cli.runs import make_denoiser, make_segmenter, of_anatomy

_PER_ACCELERATOR = 8  # X-rays
_RUN = options.trained_kinds(".ckpt")
_SCORES = options.trained_kinds(".pth")


@click.command(short_help="Serve a page and an API that segment X-rays.")
@options.of_network
@of_anatomy
@click.option(
    "--denoise",
    "denoiser",
    type=options.ExistingPath(_RUN, hub=True),
    help=f"Also restore masks, with this Post-DAE: {_RUN}.",
)
@click.option(
    "--score",
    "scorer",
    type=options.ExistingPath(_SCORES, names=("segae",), hub=True),
    help=f"Also score masks of CTs, with this SegAE: {_SCORES}.",
)
@options.embeddings("for --score, if its weights are stored without them")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free port.")
@click.option(
    "--token",
    envvar="JAXSEG_TOKEN",
    help="What clients must send, at least 16 characters. Other users of this machine see it in the list of processes: "
    "prefer --token-file, or the variable JAXSEG_TOKEN.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File whose first line is the token.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Name under which clients reach the service, such as that of a proxy; repeat it for more. localhost and IP "
    "addresses are always allowed.",
)
@click.option(
    "--queue",
    type=click.IntRange(1, 10_000),
    default=32,
    show_default=True,
    help="Requests that run or wait; more are asked to try again later.",
)
def serve(denoiser, scorer, embeddings, host, port, token, token_file, hosts, queue, gpus, **others):
    """Serve a page and an API that segment X-rays.

    The service listens only on this machine, unless --host and a token are given. Ctrl-C or SIGTERM ends it after the
    running requests. Not for clinical use.
    """
    console.stage("reading weights")
    from jaxseg.service import require_stack

    with options.usage_errors():
        require_stack()
    from jaxseg.service.app import check_token, create_app
    from jaxseg.service.limits import Limits
    from jaxseg.service.run import address_of, bind, run

    token = _token(token, token_file)
    with options.usage_errors("--token"):
        check_token(token)
    _check_host(host, token)
    with bind(host, port) as bound:  # first, since it is quick: the address may be in use
        others["batch_size"] = others["batch_size"] or _usual_batch(gpus)
        segmenter = make_segmenter(gpus=gpus, confidence=True, **others)
        restores = make_denoiser(weights=denoiser, gpus=gpus, option="--denoise") if denoiser else None
        scores = _scorer(scorer, embeddings, gpus) if scorer else None
        app = create_app(segmenter, restores, scores, token=token, hosts=hosts, limits=Limits(queue=queue))
        _log_to_stdout()
        console.stage("compiling")
        run(app, bound, lambda: console.say(f"The service is ready at {address_of(bound)} (Ctrl-C ends it)"))
    console.say("The service has ended.")


def _token(token: str | None, file: Path | None) -> str | None:
    """Returns the token that the options name."""
    if file is None:
        return token or None
    if token:
        raise click.UsageError("--token, or the variable JAXSEG_TOKEN, and --token-file exclude each other")
    with file.open(encoding="utf-8", errors="replace") as lines:
        return lines.readline(4096).strip()


def _check_host(host: str, token: str | None) -> None:
    """Refuses to listen for other machines without a token."""
    from jaxseg.service.run import is_loopback

    if is_loopback(host):
        return
    if token is None:
        raise click.UsageError(f"--host {host}: other machines could use the service; give a token with --token-file")
    console.say(
        f"Warning: the service listens on {host} without encryption. Images, results and the token can be read on the "
        "network: use it only behind a proxy with TLS, or in a network that you trust."
    )


def _usual_batch(gpus: str) -> int | None:
    """Returns the usual batch size: on accelerators, several requests are computed together."""
    from jaxseg.cli.runs import inference_devices

    devices = inference_devices(gpus)
    return None if devices[0].platform == "cpu" else _PER_ACCELERATOR * len(devices)


def _scorer(weights: Path | str, embeddings: Path | None, gpus: str):
    """Returns the Scorer of the command's options."""
    from jaxseg.cli.runs import fetched, inference_devices, show_note
    from jaxseg.segae.score import open_scorer

    devices = inference_devices(gpus)
    with options.usage_errors("--score"):
        found = open_scorer(fetched(weights, "--score"), embeddings=embeddings, devices=devices)
    if found.card is not None:
        show_note(found.card)
    return found


def _log_to_stdout() -> None:
    """Sends one line for each request to stdout, as JSON."""
    log = logging.getLogger("jaxseg.service.access")
    log.addHandler(logging.StreamHandler(sys.stdout))
    log.setLevel(logging.INFO)
    log.propagate = False
