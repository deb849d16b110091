"""Turns an example's request into the body that POST /evaluate and POST /compare take.

    python examples/body.py examples/triton_square/request.json | \
        curl -H "Content-Type: application/json" -d @- http://localhost:8000/evaluate

A request file is such a body, with two keys that name files beside it, so that sources and
contracts stay readable: `source_file` for `source_code`, and `io_file` for `io`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def read_body(request: Path) -> dict[str, Any]:
    """The body of a request file: its kernels with source and contract put in."""
    body: dict[str, Any] = json.loads(request.read_text(encoding="utf-8"))
    for key in ("kernel", "ref_kernel", "custom_kernel"):
        if key in body:
            kernel = body[key]
            source = request.parent / kernel.pop("source_file")
            kernel["source_code"] = source.read_text(encoding="utf-8")
            if "io_file" in kernel:
                contract = request.parent / kernel.pop("io_file")
                kernel["io"] = json.loads(contract.read_text(encoding="utf-8"))
    return body


if __name__ == "__main__":
    print(json.dumps(read_body(Path(sys.argv[1])), indent=2))
