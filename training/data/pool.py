"""Processes that work on pictures: started by ``spawn`` and with one OpenCV thread each.

OpenCV's thread pool deadlocks after ``fork``, and threads of its own would only stand in each other's way here.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Protocol, TypeVar

import cv2

from sdk.errors import UsageError

#: How processes are started, for ``multiprocessing`` and for PyTorch's ``DataLoader``.
START_METHOD = "spawn"

T = TypeVar("T")
R = TypeVar("R")


class MapInOrder(Protocol):
    """``map`` in some processes: results come in the order of the items."""

    def __call__(self, function: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        """The results, one an item; what the function raises is raised where its result would come."""


def start_worker(_number: int = 0) -> None:
    """What every process does first; takes the number that ``DataLoader`` gives its workers."""
    cv2.setNumThreads(1)


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[MapInOrder]:
    """``with worker_pool(2) as run: run(function, items)`` yields the results in order.

    Args:
        workers: processes; 0 runs the function in this one.

    Raises:
        UsageError: a process died, instead of the result that would be next.
    """
    if workers <= 0:
        yield map
        return
    executor = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context(START_METHOD), initializer=start_worker
    )
    try:
        yield partial(executor.map, chunksize=1)
    except BrokenProcessPool as error:
        raise UsageError(
            f"one of {workers} processes that work on the pictures was killed, most likely for want of memory: "
            "give fewer workers."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)
