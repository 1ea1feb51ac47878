"""The network and other runtimes of the same network, timed in one interleaved run; behind ``faceattr bench``.

Every contender lives in a process of its own, one of them runs at any time, and turns are short and shuffled, so that
whatever else the machine does meets all of them alike. See benchmarks/README.md.
"""

from .contenders import CONTENDERS, PEERS, Contender
from .report import Row, Summary, format_rows, relative_speeds, summarise
from .session import Settings, run_benchmark

__all__ = [
    "CONTENDERS",
    "PEERS",
    "Contender",
    "Row",
    "Settings",
    "Summary",
    "format_rows",
    "relative_speeds",
    "run_benchmark",
    "summarise",
]
