"""A builder: one compilation, in a sandbox, with no device and nothing of the submitter's run."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from kerneljudge import building
from kerneljudge.runtime.channel import CHANNEL_DESCRIPTOR, Channel
from kerneljudge.runtime.messages import Built, Fork, ToBuilder
from kerneljudge.runtime.sandbox import Policy, confine, detach_network

__all__ = ["main"]

_NICE = 10


def main(fork: Fork) -> None:
    """Entry of a forked builder: takes one request from its channel, and answers it."""
    channel = Channel(socket.socket(fileno=CHANNEL_DESCRIPTOR), ToBuilder, takes_descriptors=False)
    # Compilers leave the CPUs to what is measured, and to the server.
    os.nice(_NICE)
    scratch = Path(fork.scratch)
    os.chdir(scratch)
    os.environ["TMPDIR"] = os.environ["HOME"] = fork.scratch
    toolchain = building.Toolchain.detect()
    network = detach_network()
    confine(
        Policy(
            scratch=scratch,
            uid=fork.uid,
            readable=(Path(fork.include_cache), *toolchain.folders),
            max_data_bytes=fork.max_data_bytes,
            layers=[network],
        )
    )
    request = channel.receive()
    result = building.build(
        request.build,
        scratch=scratch,
        toolchain=toolchain,
        include_cache=Path(fork.include_cache),
    )
    channel.send(Built(request=request.request, result=result))
