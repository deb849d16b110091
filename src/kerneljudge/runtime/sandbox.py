"""What a process gives up before it meets submitted source.

Each layer is tried, and reported as active or with the reason why it is not: a machine without
one still judges, and says so. The layers are independent of each other.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import resource
import signal
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kerneljudge.runtime.messages import SandboxLayer

__all__ = [
    "Policy",
    "confine",
    "detach_network",
    "hide_gpus",
    "probe",
    "unreachable_by_others",
]

_libc = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_CLONE_NEWUSER = 0x10000000
_MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 4, 32, 4096, 16384, 1 << 18
_KEPT_MOUNT_FLAGS = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
"""The same bits as mount(2) has for them."""
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38

# linux/landlock.h; the numbers of the calls are the same on every architecture.
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_RULE_PATH_BENEATH = 1
_FS_EXECUTE, _FS_WRITE_FILE, _FS_READ_FILE, _FS_READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_FS_TRUNCATE, _FS_IOCTL_DEV = 1 << 14, 1 << 15
_READ = _FS_EXECUTE | _FS_READ_FILE | _FS_READ_DIR
_DEVICE = _FS_READ_FILE | _FS_WRITE_FILE | _FS_READ_DIR | _FS_TRUNCATE | _FS_IOCTL_DEV
_FS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_SCOPE_ABSTRACT_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1

_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/sys", "/proc")
_CONFIGURATION = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/group",
    "/etc/OpenCL",
    "/etc/vulkan",
)


@dataclass(frozen=True)
class Policy:
    """How far a process is confined."""

    scratch: Path
    """The one folder that it may write in."""
    uid: int | None
    """The unprivileged user it becomes, if it is root now."""
    readable: tuple[Path, ...] = ()
    """Folders it may read, beside the system and Python's own."""
    max_processes: int = 512
    """Processes and threads of its user."""
    max_open_files: int = 1024
    """Open descriptors."""
    max_file_bytes: int = 2 * 2**30
    """Size of any file that it writes."""
    max_data_bytes: int | None = None
    """Private memory (RLIMIT_DATA); unset on a GPU, whose driver reserves address space."""
    layers: list[SandboxLayer] = field(default_factory=list)
    """Layers that were taken before, such as the network's."""


def detach_network() -> SandboxLayer:
    """Moves the process into a network namespace with nothing in it.

    Called while the process has one thread. Without root it goes through a user namespace.
    """
    return _layer("network namespace", _unshare(_CLONE_NEWNET))


def hide_gpus(visible: str | None) -> SandboxLayer:
    """Closes the device files of every GPU but the `visible` one to this process and all that it
    starts.

    A kernel then reaches no other GPU; nor does CUDA's driver, which otherwise opens each of them
    in every process that it is initialised in, at 12 ms a GPU on an H200. Called while the process
    has one thread, with a GPU as CUDA_VISIBLE_DEVICES names it.
    """
    name = "other GPUs hidden"
    if visible is not None and not visible.startswith("GPU-"):
        return SandboxLayer(name=name, active=False, reason=f"{visible} is a part of a GPU")
    nodes = _gpu_nodes()
    if visible is not None and visible not in nodes:
        return SandboxLayer(name=name, active=False, reason=f"the driver does not list {visible}")
    others = [node for uuid, node in nodes.items() if uuid != visible]
    if not others:
        return SandboxLayer(name=name, active=True, reason="there is none")
    error = _unshare(_CLONE_NEWNS) or _mount(None, Path("/"), _MS_REC | _MS_PRIVATE)
    for node in others:
        # On a file system of its own on which devices cannot be opened.
        error = error or _mount(node, node, _MS_BIND)
        # What else the file system is mounted with must stay, in a user namespace.
        kept = os.statvfs(node).f_flag & _KEPT_MOUNT_FLAGS
        error = error or _mount(None, node, _MS_BIND | _MS_REMOUNT | _MS_NODEV | kept)
    return _layer(name, error)


def confine(policy: Policy) -> list[SandboxLayer]:
    """Gives up everything that the policy does not grant, for this process and its children."""
    layers = [*policy.layers, _limit(policy), _landlock(policy), _unprivileged(policy)]
    _check_prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # Set last: a change of user clears it.
    _check_prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    layers.append(SandboxLayer(name="no_new_privs", active=True))
    return layers


def probe() -> list[SandboxLayer]:
    """Tries every layer in a child process: what this machine allows."""
    import tempfile

    read, write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="kerneljudge-probe-") as scratch:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                taken = [hide_gpus(None), detach_network()]
                root = os.getuid() == 0 and unreachable_by_others() is None
                uid = 65534 if root else None
                layers = confine(Policy(scratch=Path(scratch), uid=uid, layers=taken))
                text = "\n".join(layer.model_dump_json() for layer in layers)
                os.write(write, text.encode())
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        with os.fdopen(read) as stream:
            text = stream.read()
        os.waitpid(child, 0)
    return [SandboxLayer.model_validate_json(line) for line in text.splitlines()]


def _limit(policy: Policy) -> SandboxLayer:
    limits: list[tuple[int, int]] = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, policy.max_open_files),
        (resource.RLIMIT_FSIZE, policy.max_file_bytes),
    ]
    if policy.uid is not None:
        # The limit counts a user's processes: it is for this one alone only where the user is.
        limits.append((resource.RLIMIT_NPROC, policy.max_processes))
    if policy.max_data_bytes is not None:
        limits.append((resource.RLIMIT_DATA, policy.max_data_bytes))
    for which, value in limits:
        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    # The kernel's own choice, when memory runs out, is then this process.
    Path("/proc/self/oom_score_adj").write_text("1000")
    return SandboxLayer(name="resource limits", active=True)


def _landlock(policy: Policy) -> SandboxLayer:
    name = "landlock"
    abi = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, 1)
    if abi < 1:
        return SandboxLayer(name=name, active=False, reason="this kernel has no Landlock")
    handled_files = (1 << _FS_BY_ABI.get(abi, 16)) - 1
    handled_network = 0b11 if abi >= 4 else 0
    scoped = _SCOPE_ABSTRACT_SOCKET | _SCOPE_SIGNAL if abi >= 6 else 0
    attributes = struct.pack("QQQ", handled_files, handled_network, scoped)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, size, 0)
    if ruleset < 0:
        return _layer(name, os.strerror(ctypes.get_errno()))
    try:
        for path in (*map(Path, (*_SYSTEM, *_CONFIGURATION)), *_python(), *policy.readable):
            _allow(ruleset, path, _READ & handled_files)
        _allow(ruleset, Path("/dev"), _DEVICE & handled_files)
        # Programs such as compilers make their own files; devices cannot be made here.
        _allow(ruleset, policy.scratch, handled_files & ~_FS_IOCTL_DEV)
        _check_prctl(_PR_SET_NO_NEW_PRIVS, 1)
        if _libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0:
            return _layer(name, os.strerror(ctypes.get_errno()))
    finally:
        os.close(ruleset)
    return SandboxLayer(
        name=name,
        active=True,
        reason=None if abi >= 6 else f"ABI {abi}: signals are not scoped before ABI 6",
    )


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not path.is_dir():
            access &= _FS_EXECUTE | _FS_READ_FILE | _FS_WRITE_FILE | _FS_TRUNCATE | _FS_IOCTL_DEV
        rule = struct.pack("=Qi", access, descriptor)
        if _libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def _python() -> Iterable[Path]:
    """The interpreter, its libraries, and this package."""
    yield from (Path(prefix) for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix})
    yield from (Path(path) for path in set(sysconfig.get_paths().values()))
    yield from (Path(entry) for entry in sys.path if entry and Path(entry).is_dir())


def _unprivileged(policy: Policy) -> SandboxLayer:
    name = "unprivileged user"
    if policy.uid is None:
        if os.getuid() != 0:
            return SandboxLayer(name=name, active=True, reason="the user of the service")
        # Root's files stay closed by Landlock; its powers over the machine go all the same.
        _drop_capabilities()
        reason = f"other users cannot reach {unreachable_by_others()}; capabilities dropped"
        return SandboxLayer(name=name, active=False, reason=reason)
    os.setgroups([])
    os.setresgid(policy.uid, policy.uid, policy.uid)
    os.setresuid(policy.uid, policy.uid, policy.uid)
    # A change of user makes a process unreadable to its own kind; compilers it starts are not it.
    _check_prctl(_PR_SET_DUMPABLE, 1)
    return SandboxLayer(name=name, active=True)


@functools.cache
def unreachable_by_others() -> Path | None:
    """The first folder on the way to Python's libraries that another user may not search.

    Where there is one, a sandboxed process of a root service stays root, without its powers.
    """
    for target in _python():
        for folder in (*reversed(target.resolve().parents), target.resolve()):
            if not folder.exists():
                break
            if folder.is_dir() and not folder.stat().st_mode & 0o001:
                return folder
    return None


def _drop_capabilities() -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        _check_prctl(_PR_CAPBSET_DROP, capability)
    # linux/capability.h, version 3: a header, and two sets of effective, permitted, inheritable.
    header = struct.pack("Ii", 0x20080522, 0)
    if _libc.syscall(_CAPSET[platform.machine()], header, bytes(24)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_CAPSET = {"x86_64": 126, "aarch64": 91}


def _check_prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def _unshare(namespaces: int) -> str | None:
    """Moves this process into new namespaces, without root by way of a user namespace.

    None on success, else the reason why not.
    """
    if os.getuid() == 0:
        return _call(_libc.unshare, namespaces)
    # A process that has the namespace, and may not map its user into it, is of no use any more.
    return _in_a_child(lambda: _enter_user_namespace(namespaces)) or _enter_user_namespace(
        namespaces
    )


def _enter_user_namespace(namespaces: int) -> str | None:
    user, group = os.getuid(), os.getgid()
    error = _call(_libc.unshare, _CLONE_NEWUSER | namespaces)
    if error is not None:
        return error
    try:
        # The same ids inside, so that files keep their owner; nothing else is mapped.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError as refused:
        return f"user namespace: {refused.strerror}"
    return None


def _in_a_child(attempt: Callable[[], str | None]) -> str | None:
    """What an attempt comes to in a process of its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, (attempt() or "").encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        reason = stream.read()
    os.waitpid(child, 0)
    return reason or None


def _gpu_nodes() -> dict[str, Path]:
    """UUID → device file of each NVIDIA GPU, as its driver lists them."""
    nodes = {}
    for path in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        text = path.read_text()
        uuid = re.search(r"^GPU UUID:\s*(\S+)", text, re.MULTILINE)
        minor = re.search(r"^Device Minor:\s*(\d+)", text, re.MULTILINE)
        if uuid and minor and (node := Path(f"/dev/nvidia{minor[1]}")).exists():
            nodes[uuid[1]] = node
    return nodes


def _mount(source: Path | None, target: Path, flags: int) -> str | None:
    """None on success, else the reason."""
    return _call(
        _libc.mount,
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None,
        ctypes.c_ulong(flags),
        None,
    )


def _call(function: object, *arguments: object) -> str | None:
    """None on success, else the reason."""
    assert callable(function)
    return None if function(*arguments) == 0 else os.strerror(ctypes.get_errno())


def _layer(name: str, error: str | None) -> SandboxLayer:
    return SandboxLayer(name=name, active=error is None, reason=error)
