"""What a model can read before it calls a tool: schemas, guides and examples."""

from __future__ import annotations

import json
from typing import Any, Final

from mcp import types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from kerneljudge.api.mcp.examples import calls
from kerneljudge.contract import IOContract
from kerneljudge.schema import CompareRequest, EvaluateRequest, KernelType

__all__ = ["Resources"]

_JSON: Final = "application/json"
_MARKDOWN: Final = "text/markdown"

_SCHEMAS: Final[dict[str, tuple[type[BaseModel], str]]] = {
    "io-contract": (IOContract, "what a kernel takes and returns, and how it is launched"),
    "evaluate-request": (EvaluateRequest, "the body of POST /evaluate"),
    "compare-request": (CompareRequest, "the body of POST /compare"),
}

_TYPES: Final = {
    KernelType.TORCH: """\
`torch`: plain PyTorch, as a reference mostly.

- Either a module: `class Model(nn.Module)` with `forward`, module-level `get_inputs()` that returns
  the list of arguments, and `get_init_inputs()` for the constructor's. No io_contract is needed.
- Or a function or method with an io_contract of its inputs: `metadata: {"function_name": "add"}`,
  or `class_name` and `method_name`. Outputs are what it returns.
- At module level: imports, definitions and constants. No test code, and nothing that runs a model.
""",
    KernelType.TORCH_CUDA: """\
`torch_cuda`: PyTorch with CUDA C++ embedded through `torch.utils.cpp_extension.load_inline`.

- `class ModelNew(nn.Module)` with the reference's `forward` and constructor; another name in
  `metadata: {"class_name": …}`.
- Call `load_inline(name=…, cpp_sources=…, cuda_sources=…, functions=[…])`, best at module level.
- No Triton beside it: that is `multi_kernel`.
- Inputs come from the io_contract, or from the reference, or from the source's `get_inputs()`.
""",
    KernelType.TRITON: """\
`triton`: one `@triton.jit` kernel, launched by the judge. The io_contract is required.

- `args` lists every parameter of the kernel in its order: pointers as tensors, scalars with a
  value, each `tl.constexpr` with `is_meta: true`.
- What the kernel writes has `role: "output"` (or `"inout"`); inputs need `init` or `data`.
- `launch: {"grid": {"x": programs}, "num_warps": 4}`: the grid is given in numbers.
- `metadata: {"kernel_name": "add_kernel"}` where the source has several kernels.
""",
    KernelType.CUDA: """\
`cuda`: one CUDA C++ `__global__` function, compiled by NVRTC and launched by the judge. The
io_contract is required.

- The source has device code only: no `main`, no launches. CUDA's headers, libcu++ (`cuda/std/…`)
  and the block and warp parts of CUB are there; for anything else set `backend` to `nvcc`.
- `args` lists every parameter in its order: pointers as tensors, scalars with a value. What the
  kernel writes has `role: "output"` (or `"inout"`); inputs need `init` or `data`.
- `launch: {"grid": {"x": blocks}, "block": {"x": threads}}`: at most 1024 threads a block.
- `metadata: {"kernel_name": "add", "compiler_options": ["--use_fast_math"]}`.
""",
    KernelType.MULTI_KERNEL: """\
`multi_kernel`: a Python script that launches several kernels (Triton, CuPy, PyTorch) itself. The
io_contract of the entry point's inputs is required.

- `metadata: {"entry_point": "run"}` names the function, which is called with all arguments of the
  contract, by position and in its order. The outputs are the contract's and what it returns.
- No `launch`: the script launches its kernels.
- Allocate results with torch on the inputs' device (`torch.empty_like(x)`).
""",
}

_COMMON: Final = """\

With a reference, both kernels get the same input values, new ones in every trial; shapes, dtypes
and values of all outputs must agree within the tolerances. A ready-to-send example of each tool's
arguments is in `kerneljudge://examples/{kernel_type}`, the schema of contracts in
`kerneljudge://schema/io-contract`. `validate_kernel` is the quickest first call.
"""


class Resources:
    """Lists the resources and reads them."""

    def __init__(self) -> None:
        """Writes them all, once."""
        self._texts: dict[str, str] = {}
        self._listed: list[types.Resource] = []
        for name, (model, what) in _SCHEMAS.items():
            schema = _dumped(model.model_json_schema())
            self._add(f"kerneljudge://schema/{name}", f"JSON Schema: {what}", schema, _JSON)
        for kernel_type, guide in _TYPES.items():
            text = guide + _COMMON.replace("{kernel_type}", kernel_type)
            title = f"How to write a {kernel_type} kernel"
            self._add(f"kerneljudge://guide/{kernel_type}", title, text, _MARKDOWN)
        for kernel_type in KernelType:
            title = f"Arguments of each tool for a {kernel_type} kernel"
            text = _dumped(calls(kernel_type))
            self._add(f"kerneljudge://examples/{kernel_type}", title, text, _JSON)

    async def list(
        self, _: ServerRequestContext[Any, Any], __: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        """Every resource."""
        return types.ListResourcesResult(resources=self._listed)

    async def templates(
        self, _: ServerRequestContext[Any, Any], __: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        """The resources that there are one of for each kernel type."""
        return types.ListResourceTemplatesResult(
            resource_templates=[
                types.ResourceTemplate(
                    name=name,
                    description=f"{what}: {', '.join(KernelType)}",
                    uri_template=f"kerneljudge://{name}/{{kernel_type}}",
                    mime_type=mime_type,
                )
                for name, what, mime_type in (
                    ("examples", "Ready-to-send tool arguments, by kernel type", _JSON),
                    ("guide", "How to write a kernel, by kernel type", _MARKDOWN),
                )
            ]
        )

    async def read(
        self, _: ServerRequestContext[Any, Any], params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        """One resource. Raises `MCPError` where there is none."""
        uri = str(params.uri)
        found = next((resource for resource in self._listed if resource.uri == uri), None)
        if found is None:
            raise MCPError(
                code=types.INVALID_PARAMS,
                message=f"there is no resource {uri}; there are: {', '.join(self._texts)}",
            )
        contents = types.TextResourceContents(
            uri=uri, text=self._texts[uri], mime_type=found.mime_type
        )
        return types.ReadResourceResult(contents=[contents])

    def _add(self, uri: str, title: str, text: str, mime_type: str) -> None:
        self._texts[uri] = text
        name = uri.removeprefix("kerneljudge://")
        self._listed.append(
            types.Resource(
                uri=uri, name=name, title=title, mime_type=mime_type, size=len(text.encode())
            )
        )


def _dumped(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)
