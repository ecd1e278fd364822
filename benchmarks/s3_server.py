"""An S3 server on loopback that stops answering for a while when told; moto's, as a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import Request, urlopen


class Server:
    """With one bucket, called "bucket"."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        endpoint = f"http://127.0.0.1:{port}"
        keys = {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "not-a-secret", "REGION": "us-east-1"}
        self.environment = {
            f"AWS_{name}": value for name, value in {**keys, "ENDPOINT_URL": endpoint, "ALLOW_HTTP": "true"}.items()
        }
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                with urlopen(Request(f"{endpoint}/bucket", method="PUT")):
                    return
            except URLError:
                time.sleep(0.1)
        self.close()
        raise RuntimeError("moto's server did not come up within a minute")

    def go_away(self, seconds: float) -> None:
        """Answer nothing for so long."""
        self._process.send_signal(signal.SIGSTOP)
        threading.Timer(seconds, self._process.send_signal, [signal.SIGCONT]).start()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def s3_server() -> Iterator[Server]:
    """An S3 that this process, and every one that it starts, finds in its environment."""
    server, before = Server(), dict(os.environ)
    os.environ.update(server.environment)
    try:
        yield server
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.close()
