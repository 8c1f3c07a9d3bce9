"""The SDK's transport over a unix socket, with one pool of kept connections.

The SDK keeps a pool per URL, so that nearly every request connects anew, and leaves the
socket open that failed to connect. An exec at a wanted instant needs a connection
that is there already; an engine that dies is this program's daily bread.
"""

from __future__ import annotations

import socket
from typing import Any

from docker.transport.unixconn import (
    UnixHTTPAdapter,
    UnixHTTPConnection,
    UnixHTTPConnectionPool,
)


class _Connection(UnixHTTPConnection):
    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self.unix_socket)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class _Pool(UnixHTTPConnectionPool):
    def _new_conn(self) -> Any:
        return _Connection(self.base_url, self.socket_path, self.timeout)  # type: ignore[arg-type]


class _Adapter(UnixHTTPAdapter):
    def get_connection(self, url: Any, proxies: Any = None) -> UnixHTTPConnectionPool:
        with self.pools.lock:
            pool = self.pools.get("one")
            if pool is None:
                # The host part of the base only fills the Host header.
                pool = _Pool(url, self.socket_path, self.timeout, maxsize=self.max_pool_size)
                self.pools["one"] = pool
            return pool


def fit(sdk: Any, path: str, seconds: int) -> None:
    """Put this transport in the place of the SDK's own."""
    adapter = _Adapter(f"http+unix://{path}", seconds)
    sdk._custom_adapter = adapter  # noqa: SLF001
    sdk.mount("http+docker://", adapter)
