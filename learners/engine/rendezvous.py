"""How the ranks of a group meet, on a port that listens from the moment it is named; and how they part."""

import atexit
import logging
import os
import socket
import time
from datetime import timedelta

import torch.distributed as dist

from itercomp_rl.errors import ConfigError
from learners.engine.spec import Group

log = logging.getLogger(__name__)

_listening: dict[tuple[str, int], socket.socket] = {}


def listen(host: str) -> int:
    """A port of this host's address, held for a group whose rank 0 this process will be.

    The group meets hours later, after gallery and rewards: a port that was only free just now may be another's by then.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        held = socket.create_server((host, 0), family=family)
    except OSError as error:  # behind a NAT, the address that others know is of no interface here
        log.warning("the learners' port cannot be bound to %s (%s): it listens on every address", host, error)
        held = socket.create_server(("", 0), family=family)
    _listening[host, held.getsockname()[1]] = held
    return held.getsockname()[1]


def group_store(group: Group) -> dist.Store:
    """The store through which a group's ranks find each other; rank 0 serves it, on the port that `listen` holds."""
    if group.world_size == 1:
        return dist.HashStore()
    address, is_first = (group.master_addr, group.master_port), group.rank == 0
    if group.master_addr == "127.0.0.1":  # all ranks are here, so gloo's own sockets need nobody else either
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
    held = _listening.pop(address, None) if is_first else None
    return dist.TCPStore(
        *address,
        group.world_size,
        is_master=is_first,
        timeout=timedelta(seconds=group.timeout_s),
        # Left alone, the store listens on every address of the machine, and asks nobody who they are.
        master_listen_fd=held.detach() if held else None,
    )


def _loopback() -> str:
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))


_joined: Group | None = None


def join_group(group: Group) -> None:
    """Makes this process a rank of the group; once joined, asking for the same group again does nothing.

    Raises: ConfigError if the process already belongs to another group.
    """
    global _joined
    if _joined == group:
        return
    if _joined is not None or dist.is_initialized():
        raise ConfigError(f"this process is already in {_joined or 'a foreign group'} and cannot join {group} as well")
    timeout, store = timedelta(seconds=group.timeout_s), group_store(group)
    dist.init_process_group(group.backend, store=store, rank=group.rank, world_size=group.world_size, timeout=timeout)
    atexit.register(_leave_group)
    _joined = group


def _leave_group() -> None:
    """Lets gloo's threads drop what they hold before Python ends: one exit in ten aborted without.

    A thread of gloo lets go of the tensors of the last collective some time after that collective is done, and takes
    the interpreter's lock to do so. Taken while Python ends, the lock ends the thread in a way that aborts the process.
    """
    dist.destroy_process_group()
    time.sleep(0.2)  # sleeping lends the lock out; nothing tells when the threads are done with it
