"""``netc bench``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import check_target


def _names(context, parameter, text):
    from ...bench.command import names
    return names(context, parameter, text)


def _numbers(context, parameter, text):
    from ...bench.command import numbers
    return numbers(context, parameter, text)


@click.command()
@click.option("--models", callback=_names, metavar="A,B", help="tiny, mlp, inception, two_images, autoencoder, ticket, "
              "transformer, vae, gpt, and digits for --compile; without it all.")
@click.option("--batches", callback=_numbers, metavar="1,32", help="Batch sizes; without it 1, 32 and 128.")
@click.option("--jobs", callback=_names, metavar="A,B", help="inference, training; without it both.")
@click.option("--peers", callback=_names, metavar="A,B",
              help="torch, torch.compile, jax, onnxruntime, openvino, or netc "
              "for netc alone; without it all that are installed.")
@click.option("--quick", is_flag=True, help="Short turns, batches 1 and 32: an impression.")
@click.option("--scaling", is_flag=True, help="netc on one thread too.")
@click.option("--compile", "starts", is_flag=True, help="Instead of speed, the time to the first result in fresh "
              "processes, with and without compiled code on disk; of netc, and of peers that are named.")
@click.option("--threads", type=click.IntRange(1), help="Threads of each implementation; without it 2.")
@click.option("--limit", type=click.FloatRange(1), default=120.0, show_default=True,
              help="Seconds after which a peer that does not answer is cut off.")
@click.option("--patience", type=click.FloatRange(0), default=20.0, show_default=True,
              help="Seconds a row to wait for turns in which nobody else uses the machine.")
@click.option("--against", "earlier", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="The --json of an earlier run, to show netc then and now.")
@click.option("--json", "as_json", type=click.Path(path_type=Path, dir_okay=False),
              help="Write everything that was measured.")
@click.option("--svg", "figure", type=click.Path(path_type=Path, dir_okay=False), help="Write a figure.")
def bench(**options) -> None:
    """Compare speed and memory with other libraries, and with the machine's limit.

    Each implementation runs in a process of its own on equal weights and inputs; results are compared, then times are
    taken in turns.  Peers come with the extra `bench`; those that are not installed are left out.
    """
    from ...bench.command import main
    for path in (options["as_json"], options["figure"]):
        if path is not None:
            check_target(path)          # now, not after minutes of measuring
    main(**options)
