"""Where ranks meet: the port is held from when it is named, and listens nowhere else."""

import socket
import threading

import psutil
import pytest

from learners.engine.rendezvous import group_store, listen
from learners.engine.spec import Group


def listening_at(port: int) -> set[str]:
    connections = psutil.Process().net_connections("tcp")
    return {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN and one.laddr.port == port}


def test_a_port_that_is_named_is_nobody_else_s_until_the_group_meets_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # set by group_store, and here put back
    port = listen("127.0.0.1")
    with pytest.raises(OSError, match="in use"), socket.create_server(("127.0.0.1", port)):
        pass
    settings = {"world_size": 2, "master_addr": "127.0.0.1", "master_port": port, "timeout_s": 20.0, "backend": "gloo"}
    with socket.create_connection(("127.0.0.1", port)):
        pass  # who comes before the store does is let in all the same
    stores = {}

    def meet(rank: int) -> None:
        stores[rank] = group_store(Group(rank=rank, **settings))  # type: ignore[arg-type]

    second = threading.Thread(target=meet, args=(1,))
    second.start()
    meet(0)
    second.join()
    stores[0].set("told by", "the first")
    assert stores[1].get("told by") == b"the first"
    assert listening_at(port) == {"127.0.0.1"}
