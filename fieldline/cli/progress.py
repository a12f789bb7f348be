# SPDX-License-Identifier: Apache-2.0
"""Progress bars on stderr, quiet when that is not a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from .console import progress_console

if TYPE_CHECKING:
    from ..engine.dense_init import DenseInitProgress
    from ..engine.training import FitEvent, FitProgress, FitResult

T = TypeVar("T")


def counted(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, with a bar that counts them."""
    console = progress_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    bars.disable = not console.is_terminal
    with bars:
        yield from bars.track(items, description=what)


def clock(seconds: float) -> str:
    """A duration as m:ss or h:mm:ss."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def summary(event: FitProgress) -> str:
    """The figures of a training step in one line."""
    return (
        f"loss {event.loss:.4f}  PSNR {event.psnr:.2f} dB  {event.n_splats:,} splats  "
        f"{event.iterations_per_second:.1f} it/s  {clock(event.eta_seconds)} left"
    )


def follow(events: Iterable[FitEvent], what: str = "training") -> FitResult:
    """Shows a training run as it goes on.

    Args:
        events: Of ``engine.training.fit_events``.
        what: The bar's name.

    Returns:
        What the run ends with.
    """
    from ..engine.training import FitFinished, FitProgress

    console = progress_console()
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn())
    bars = Progress(*columns, TextColumn("{task.fields[figures]}"), console=console)
    bars.disable = not console.is_terminal
    with bars:
        task = bars.add_task(what, total=1.0, figures="")
        for event in events:
            if isinstance(event, FitProgress):
                bars.update(task, completed=event.fraction, figures=summary(event))
            elif isinstance(event, FitFinished):
                return event.result
    raise RuntimeError("the training run ended without a result")


@contextlib.contextmanager
def watched_stages(what: str) -> Iterator[Callable[[DenseInitProgress], None]]:
    """A bar for work in stages, each of which counts views.

    Args:
        what: The bar's name.

    Yields:
        What to call as views are done.
    """
    console = progress_console()
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    bars = Progress(*columns, TextColumn("{task.fields[view]}"), console=console, transient=True)
    bars.disable = not console.is_terminal
    with bars:
        task = bars.add_task(what, view="")

        def show(event: DenseInitProgress) -> None:
            described = f"{what}: {event.stage}"
            bars.update(
                task,
                description=described,
                completed=event.done,
                total=event.total,
                view=event.view,
            )

        yield show
