"""A program that would tell if anybody could see it being stopped; it counts on standard output.

One thread counts, one waits in epoll_wait, one in a recv with a time-out that is long; the last
two end the program with an error when their call returns.
"""

import ctypes
import os
import socket
import struct
import sys
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)


def fail(what: str) -> None:
    os.write(2, f"{what}: {os.strerror(ctypes.get_errno())}\n".encode())
    os._exit(1)


def wait_in_epoll() -> None:
    libc.epoll_wait(libc.epoll_create1(0), ctypes.create_string_buffer(12), 1, -1)
    fail("epoll_wait")


def wait_in_recv(sock: socket.socket) -> None:
    libc.recv(sock.fileno(), ctypes.create_string_buffer(1), 1, 0)
    fail("recv")


def main() -> None:
    sock, _other = socket.socketpair()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 600, 0))
    threading.Thread(target=wait_in_epoll, daemon=True).start()
    threading.Thread(target=wait_in_recv, args=(sock,), daemon=True).start()
    time.sleep(0.1)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        time.sleep(0.0005)
        os.write(1, b".")


if __name__ == "__main__":
    main()
