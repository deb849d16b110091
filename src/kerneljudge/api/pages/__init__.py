"""The page that a person uses: queue, devices, recent jobs, and each job."""

from kerneljudge.api.pages.routes import add_pages

__all__ = ["add_pages"]
