"""All that is wrong with a request, said at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sdk.errors import ToonEdgeError


class Problems:
    """Collects users' mistakes, so that a request is refused once and not once a mistake.

    problems = Problems()
    with problems.collect():
        check_this()
    with problems.collect():
        check_that()
    problems.raise_any()
    """

    def __init__(self) -> None:
        self.found: list[ToonEdgeError] = []

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.found)

    def add(self, problem: ToonEdgeError) -> None:
        """Notes a problem; one that says the same as an earlier one is dropped."""
        if str(problem) not in map(str, self.found):
            self.found.append(problem)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Notes the error that ends the block, and goes on after it. Mistakes that are not the user's pass through."""
        try:
            yield
        except ToonEdgeError as problem:
            self.add(problem)

    def raise_any(self) -> None:
        """Raises what was found: the error itself, or one of the kind with the lowest exit code that lists all."""
        if not self.found:
            return
        if len(self.found) == 1:
            raise self.found[0]
        listed = " ".join(f"({number}) {problem}" for number, problem in enumerate(self.found, 1))
        kind = type(min(self.found, key=lambda problem: problem.exit_code))
        raise kind(f"{len(self.found)} problems: {listed}") from self.found[0]
