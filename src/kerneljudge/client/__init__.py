"""The Python client. Needs neither torch nor a GPU."""

from kerneljudge.client.client import KernelJudgeClient
from kerneljudge.client.errors import KernelJudgeError, RequestError, ServerError

__all__ = ["KernelJudgeClient", "KernelJudgeError", "RequestError", "ServerError"]
