"""The Python client. Needs neither torch nor a GPU.

With it comes what its requests are made of: kernels, contracts and their builder.
"""

from kerneljudge.api import (
    CompareResponse,
    EvaluateResponse,
    JobEventResponse,
    JobResponse,
    JobSummary,
)
from kerneljudge.client.async_client import AsyncKernelJudgeClient
from kerneljudge.client.batches import BatchProgress, Outcome
from kerneljudge.client.calls import Submittable
from kerneljudge.client.client import KernelJudgeClient
from kerneljudge.client.decoding import Judged, result_of
from kerneljudge.client.errors import (
    AuthenticationError,
    ConflictError,
    JobCancelled,
    JobError,
    JobTimeout,
    KernelJudgeError,
    NotFoundError,
    RateLimited,
    RequestError,
    ServerError,
    ServerUnreachable,
)
from kerneljudge.contract import (
    ArgSpec,
    IOContract,
    IOContractBuilder,
    LaunchConfig,
    LaunchDim,
    TensorData,
    TensorInit,
    TensorSpec,
    create_arange_spec,
    create_full_spec,
    create_ones_spec,
    create_randn_spec,
    create_tensor_spec,
    create_uniform_spec,
    create_zeros_spec,
)
from kerneljudge.schema import (
    CompareRequest,
    EvaluateRequest,
    KernelCode,
    KernelType,
    Verdict,
    load_from_file,
    save_to_file,
    to_json,
)

__all__ = [
    "ArgSpec",
    "AsyncKernelJudgeClient",
    "AuthenticationError",
    "BatchProgress",
    "CompareRequest",
    "CompareResponse",
    "ConflictError",
    "EvaluateRequest",
    "EvaluateResponse",
    "IOContract",
    "IOContractBuilder",
    "JobCancelled",
    "JobError",
    "JobEventResponse",
    "JobResponse",
    "JobSummary",
    "JobTimeout",
    "Judged",
    "KernelCode",
    "KernelJudgeClient",
    "KernelJudgeError",
    "KernelType",
    "LaunchConfig",
    "LaunchDim",
    "NotFoundError",
    "Outcome",
    "RateLimited",
    "RequestError",
    "ServerError",
    "ServerUnreachable",
    "Submittable",
    "TensorData",
    "TensorInit",
    "TensorSpec",
    "Verdict",
    "create_arange_spec",
    "create_full_spec",
    "create_ones_spec",
    "create_randn_spec",
    "create_tensor_spec",
    "create_uniform_spec",
    "create_zeros_spec",
    "load_from_file",
    "result_of",
    "save_to_file",
    "to_json",
]
