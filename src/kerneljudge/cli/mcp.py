"""`kerneljudge mcp`: the judge as tools for an agent, over standard input and output."""

from __future__ import annotations

import asyncio

from kerneljudge.cli import options
from kerneljudge.cli.console import Usage, exit_on_error

__all__ = ["mcp"]


def mcp(url: options.Url = None, api_key: options.ApiKey = None) -> None:
    """Serve an agent: the Model Context Protocol over standard input and output.

    The agent's program starts this command and ends it by closing its standard input. Settings of
    a private server are environment variables, such as KERNELJUDGE_DEVICES.
    """
    with exit_on_error():
        try:
            from kerneljudge.cli.mcp_stdio import serve_stdio
        except ModuleNotFoundError as error:
            raise Usage(
                f"`kerneljudge mcp` needs the MCP SDK, of which {error.name} is missing: "
                'pip install "kerneljudge[server]"'
            ) from None
        asyncio.run(serve_stdio(url, api_key))
