"""What the demo shows: a bar while it works, a table or JSON when it has ended."""

from __future__ import annotations

import contextlib
import itertools
import json
import platform
import sys
from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from safejax.demo._outcome import ACCURACY_FLOOR, Outcome, Result, Summary, Training

_WIDTH = 100
# Words, not marks: they survive a log, a pipe and a terminal that knows only ASCII.
_VERDICTS = {True: "SUCCEEDED", False: "stopped", None: "NOT PLAYED"}


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if console.width > _WIDTH or not console.is_terminal:
        console.width = _WIDTH
    return console


@contextlib.contextmanager
def progress(steps: int) -> Iterator[Callable[[str], None]]:
    """A bar on the error stream, if that is a terminal; gone when the work is done.

    Yields:
        A function to call with the name of each step as it begins.
    """
    bar = Progress(
        "{task.description}",
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=_console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("starting", total=steps)
        done = itertools.count()
        yield lambda what: bar.update(task, description=what, completed=next(done))


def show_json(summary: Summary) -> None:
    """One JSON document on the output stream, and nothing else."""
    sys.stdout.write(json.dumps(summary.as_json(), indent=2) + "\n")


def show(summary: Summary) -> None:
    """The table, between what it was measured on and what it comes to."""
    _console().print(
        Group(
            _heading(summary),
            "",
            _training(summary.training),
            "",
            _table(summary.results),
            _conclusion(summary),
        )
    )


def _heading(summary: Summary) -> Text:
    return Text.assemble(
        (f"safejax {summary.version}", "bold"),
        f" on JAX {summary.jax}, Python {platform.python_version()}, CPU. "
        "Each half of an attack ran in its own process.",
    )


def _training(training: Training) -> Text:
    learned = training.accuracy > ACCURACY_FLOOR
    return Text.assemble(
        f"Trained on {training.train_images:,} handwritten digits "
        f"in {_seconds(training.seconds)}: ",
        (f"{training.accuracy:.1%}", "bold green" if learned else "bold red"),
        f" of {training.test_images:,} others recognised.\n"
        f"Served batches of 1, 16 and 64: "
        f"{training.right} of {training.served} recognised.",
    )


def _table(results: tuple[Result, ...]) -> Table:
    table = Table(
        Column("attack", ratio=26),
        Column("on plain JAX: jax.jit", ratio=37),
        Column("here: safejax.safe_jit", ratio=37),
        box=box.HORIZONTALS,
        expand=True,
        show_lines=True,
        header_style="bold",
    )
    for result in results:
        attack = Text.assemble(
            (f"{result.id}  {result.title}\n", "bold"), (result.story, "dim")
        )
        table.add_row(attack, _half(result.plain), _half(result.safe))
    return table


def _half(outcome: Outcome) -> Text:
    good = outcome.succeeded is False
    return Text.assemble(
        _figures(outcome),
        "\n",
        (_VERDICTS[outcome.succeeded], "bold green" if good else "bold red"),
        f"  {outcome.outcome}",
    )


def _figures(outcome: Outcome) -> Text:
    compiled = f"{outcome.compilations} compiled"
    memory = f"{outcome.rss_bytes / 1e6:+.1f} MB"
    return Text(f"{_seconds(outcome.seconds):<9}{memory:<12}{compiled}", style="cyan")


def _seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds * 1e6:.0f} us"


def _conclusion(summary: Summary) -> Text:
    stopped = sum(result.stopped for result in summary.results)
    text = (
        f"{stopped} of {len(summary.results)} attacks succeeded on plain JAX "
        f"and were stopped here, in {summary.seconds:.0f} s altogether."
    )
    return Text(text, style="bold green" if summary.ok else "bold red")
