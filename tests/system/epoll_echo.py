"""An echo server that knows nothing of prl: ``epoll_echo.py ADDRESS PORT``, one process.

It waits in epoll_wait without Python's own repetition after EINTR, and a second thread reads with
a time-out, so that it would end noisily if anybody could see that it is stopped and copied.
"""

import ctypes
import os
import socket
import sys

EPOLLIN = 1
libc = ctypes.CDLL(None, use_errno=True)


class Event(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("events", ctypes.c_uint32), ("fd", ctypes.c_uint64))


def wait(poller: int) -> int:
    event = Event()
    if libc.epoll_wait(poller, ctypes.byref(event), 1, -1) != 1:
        sys.exit(f"epoll_wait: {os.strerror(ctypes.get_errno())}")
    return int(event.fd)


def watch(poller: int, fd: int) -> None:
    event = Event(EPOLLIN, fd)
    libc.epoll_ctl(poller, 1, fd, ctypes.byref(event))


def main() -> None:
    family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    listener = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
    poller = libc.epoll_create1(0)
    watch(poller, listener.fileno())
    open_now: dict[int, socket.socket] = {}
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    while True:
        fd = wait(poller)
        if fd == listener.fileno():
            sock, _ = listener.accept()
            open_now[sock.fileno()] = sock
            watch(poller, sock.fileno())
            sys.stdout.write(f"accepted {sock.fileno()}\n")
            sys.stdout.flush()
            continue
        if fd not in open_now:
            continue  # epoll tells of a closed descriptor as long as somebody else has it as well
        data = open_now[fd].recv(1 << 16)
        if not data or data == b"bye\n":
            open_now.pop(fd).close()
        elif data == b"exit\n":
            os._exit(0)
        else:
            open_now[fd].sendall(data)


if __name__ == "__main__":
    main()
