"""The Model Context Protocol: the judge as tools for agents.

`kerneljudge.api.mcp.mount` puts it into the HTTP server; `kerneljudge mcp` serves it over standard
input and output.
"""

from kerneljudge.api.mcp.backend import Backend, NotTaken, Step
from kerneljudge.api.mcp.protocol import create_mcp_server

__all__ = ["Backend", "NotTaken", "Step", "create_mcp_server"]
