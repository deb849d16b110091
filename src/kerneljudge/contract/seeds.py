"""The seeds that derive from one another: of trials, and of arguments without their own."""

from __future__ import annotations

import hashlib

from kerneljudge.contract.tensors import TensorSpec

__all__ = ["argument_seed", "trial_seed", "value_seed"]


def trial_seed(seed: int, trial: int) -> int:
    """The seed of a trial, counted from 0, in [0, 2**63): that of trial 0 is `seed` itself.

    Later ones are the upper 63 bits of the first 8 bytes, big-endian, of the SHA-256 digest of
    the text `trial:SEED:TRIAL`.
    """
    return seed if trial == 0 else _derive("trial", seed, trial)


def argument_seed(job_seed: int, position: int) -> int:
    """The seed of the argument at a position, in [0, 2**63), where its `init` has none.

    Made as in `trial_seed`, of the text `argument:SEED:POSITION`.
    """
    return _derive("argument", job_seed, position)


def value_seed(spec: TensorSpec, *, job_seed: int, position: int, trial: int) -> int:
    """The seed of a tensor's values in one trial.

    In trial 0 its own, if it has one. Later trials always derive from the job's: a seed that is
    written in a contract is known to whoever writes the kernel, and so are all that follow from it.
    """
    own = spec.init.seed if spec.init is not None else None
    if trial == 0 and own is not None:
        return own
    return trial_seed(argument_seed(job_seed, position), trial)


def _derive(what: str, seed: int, index: int) -> int:
    digest = hashlib.sha256(f"{what}:{seed}:{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
