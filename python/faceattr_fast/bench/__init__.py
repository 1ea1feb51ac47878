"""The network and other runtimes of the same network, timed in one interleaved run; behind ``faceattr bench``.

Every contender lives in a process of its own, one of them runs at any time, and turns are short and shuffled, so that
whatever else the machine does meets all of them alike. See benchmarks/README.md.
"""

from .contenders import CONTENDERS, PEERS, Contender
from .inputs import Crops, read_crops, synthetic_crops
from .report import DTYPES, Row, Summary, relative_speeds, rows_of, summarise
from .session import run_benchmark
from .settings import Settings
from .tables import format_peaks, format_rows, format_starts

__all__ = [
    "CONTENDERS",
    "DTYPES",
    "PEERS",
    "Contender",
    "Crops",
    "Row",
    "Settings",
    "Summary",
    "format_peaks",
    "format_rows",
    "format_starts",
    "read_crops",
    "relative_speeds",
    "rows_of",
    "run_benchmark",
    "summarise",
    "synthetic_crops",
]
