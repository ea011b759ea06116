"""What prl asks of Linux in Python: netlink, sock_diag, TCP_INFO, ptrace, /proc, inotify."""
