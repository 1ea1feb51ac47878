"""Sources of faces: one module per format, each giving records (:class:`.record.Record`)."""

from .ferplus import FERPlus
from .folder import Folder
from .lfw import LFW
from .record import Record, Source
from .shards import Shards
from .table import Table
from .utkface import UTKFace

__all__ = ["LFW", "FERPlus", "Folder", "Record", "Shards", "Source", "Table", "UTKFace"]
