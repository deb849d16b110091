"""Entry of `python -m kerneljudge.judging DESCRIPTOR`: one judge, on one device."""

from __future__ import annotations

import socket
import sys

from kerneljudge.judging.protocol import JudgeConfiguration, ToJudge
from kerneljudge.runtime import orphans
from kerneljudge.runtime.channel import Channel
from kerneljudge.runtime.sandbox import hide_gpus


def main() -> None:
    """Judges until the server closes the channel."""
    # What a zygote that dies leaves behind is this process's to end.
    orphans.adopt()
    channel = Channel(socket.socket(fileno=int(sys.argv[1])), ToJudge, takes_descriptors=False)
    configuration = channel.receive()
    if not isinstance(configuration, JudgeConfiguration):
        raise SystemExit("the first message to a judge is its configuration")
    # First of all: it holds for what is started from here on, and torch starts threads.
    hidden = hide_gpus(configuration.gpu)
    from kerneljudge.judging.process import serve

    serve(channel, configuration, hidden)


if __name__ == "__main__":
    main()
