"""`python -m harness.engine.pipe HOST CONTAINER ARGV…`: docker exec -i without the docker program.

Standard input, output and error are the exec's; the exit code is the exec's.
"""

from __future__ import annotations

import os
import socket
import sys
import threading


def main(argv: list[str]) -> int:
    from harness.engine.client import Engine
    from harness.engine.execs import Frames

    host, container, *command = argv
    sdk = Engine(host).sdk
    made = sdk.exec_create(container, command, stdin=True)["Id"]
    stream = sdk.exec_start(made, socket=True)
    link: socket.socket = getattr(stream, "_sock", stream)

    def feed() -> None:
        while chunk := os.read(0, 65536):
            link.sendall(chunk)
        link.shutdown(socket.SHUT_WR)

    threading.Thread(target=feed, daemon=True).start()
    frames = Frames()
    while chunk := link.recv(65536):
        for number, data in frames.feed(chunk):
            os.write(2 if number == 2 else 1, data)
    return int(sdk.exec_inspect(made).get("ExitCode") or 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
