"""Write the network as an ONNX file: float32 pixels [N, 3, S, S] in, one output per head, any N."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..weights import read_weights
from .output import replacing
from .usage import add_weights_argument, names, usage_errors, weights_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write")
    parser.add_argument("--heads", type=names, metavar="A,B", help="outputs (default: embedding and every attribute)")
    add_weights_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..export import check_onnx, export_onnx, require_onnx

    weights = weights_path(arguments)
    with usage_errors():
        require_onnx()
        from .. import reference

        net, metadata = reference.load(weights), read_weights(weights).metadata
        try:
            with replacing(arguments.out) as temporary:
                export_onnx(net, temporary, heads=arguments.heads, metadata=metadata)
                error = check_onnx(net, temporary)
        except RuntimeError as failure:
            print(f"faceattr export-onnx: {failure}", file=sys.stderr)
            return 1
    checked = "not checked: onnxruntime is not installed" if error is None else f"onnxruntime agrees to {error:.1e}"
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB, {checked}")
    return 0
