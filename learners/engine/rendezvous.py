"""Where the ranks of a group meet: a port that listens as soon as it is named, and on no other address."""

import logging
import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING

import torch.distributed as dist

if TYPE_CHECKING:
    from learners.engine.engine import Group

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


def group_store(group: "Group") -> dist.Store:
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
