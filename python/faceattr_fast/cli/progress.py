"""A bar on standard error, where that is a terminal; nothing otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["Progress"]

_BAR, _INTERVAL = 24, 0.1


class Progress:
    """Counts ``total`` items: ``with Progress(40, "pictures") as progress: …; progress.step()``; None: not known."""

    def __init__(self, total: int | None, unit: str) -> None:
        self.total, self._unit, self._done = total, unit, 0
        self._shown = sys.stderr.isatty()
        self._started = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> Progress:
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def step(self, done: int | None = None) -> None:
        """One more item is done, or so many are."""
        self._done = self._done + 1 if done is None else done
        if time.monotonic() - self._drawn >= _INTERVAL or self._done == self.total:
            self._draw()

    def show(self, done: int, note: str) -> None:
        """So many items are done; what happens now."""
        self._done = done
        self._draw(note)

    def meter(self, unit: str, note: str) -> Callable[[int, int], None]:
        """For work that says itself how many items are done, and of how many."""

        def show(done: int, total: int) -> None:
            if unit != self._unit:  # what was done before says nothing of how long this takes
                self._started = time.monotonic()
            self._done, self.total, self._unit = done, total, unit
            if time.monotonic() - self._drawn >= _INTERVAL or done == total:
                self._draw(note)

        return show

    def print(self, line: str, file: TextIO) -> None:
        """Print a line, flushed, where the bar was."""
        self._clear()
        print(line, file=file, flush=True)
        self._drawn = 0.0

    def _draw(self, note: str = "") -> None:
        if not self._shown:
            return
        self._drawn = time.monotonic()
        if self.total is None:
            text = f"{self._done} {self._unit}"
        else:
            filled = _BAR * self._done // max(1, self.total)
            text = f"[{'#' * filled}{'.' * (_BAR - filled)}] {self._done}/{self.total} {self._unit}"
        elapsed = self._drawn - self._started
        if self.total is not None and self._done and elapsed > 1:
            text += f", {elapsed / self._done * (self.total - self._done):.0f} s left"
        sys.stderr.write(f"\r\x1b[K{text}{'  ' + note if note else ''}")
        sys.stderr.flush()

    def _clear(self) -> None:
        if self._shown and self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
