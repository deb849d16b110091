"""The server of the Model Context Protocol, the same behind every transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server

import kerneljudge
from kerneljudge.api.mcp.backend import Backend
from kerneljudge.api.mcp.resources import Resources
from kerneljudge.api.mcp.tools import Tools

__all__ = ["create_mcp_server"]

_INSTRUCTIONS = """\
KernelJudge builds, runs, checks and times GPU kernels (PyTorch, CUDA C++, Triton).

validate_kernel tells whether a kernel compiles and runs; compare_kernels, or evaluate_kernel with a
reference, whether it is right and how much faster it is. A kernel that fails is an answer with a
verdict and a hint; a call that is marked as an error names the arguments that are wrong and shows
right ones. kerneljudge://guide/{kernel_type} tells how to write each kernel type, and
kerneljudge://examples/{kernel_type} has arguments that are ready to send.
"""


def create_mcp_server(
    backend_of: Callable[[ServerRequestContext[Any, Any]], Backend],
) -> Server[dict[str, Any]]:
    """A server whose calls go to the backend that `backend_of` gives for each."""
    tools = Tools(backend_of)
    resources = Resources()
    return Server(
        "kerneljudge",
        title="KernelJudge",
        version=kerneljudge.__version__,
        instructions=_INSTRUCTIONS,
        on_list_tools=tools.list,
        on_call_tool=tools.call,
        on_list_resources=resources.list,
        on_list_resource_templates=resources.templates,
        on_read_resource=resources.read,
    )
