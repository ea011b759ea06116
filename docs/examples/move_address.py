#!/usr/bin/env python3
"""A role hook of prl's that moves a cloud's addresses to the node that has become owner.

    [hooks]
    role = ["/usr/local/sbin/move_address.py", "/usr/local/sbin/cloud-address"]

cloud-address is yours: a few lines around your provider's tool. It is called as

    cloud-address holder ADDRESS        prints the name of the node that has ADDRESS, if any
    cloud-address assign ADDRESS NODE   lets NODE have it, whoever had it; exit status 0 if so

Each address is assigned until its holder is this node, twice in a row, and only as long as prld
says that this node owns the service: a node that was slow must not take an address back. prld kills
this program at hooks.timeout_ms. It needs nothing but Python and prlctl.
"""

import argparse
import json
import os
import subprocess
import sys
import time

AGAIN_S = 1.0
CALL_TIMEOUT_S = 5.0
SURE = 2
"""So many looks in a row must find the address here."""


def owns(prlctl: str, service: str) -> bool:
    """Whether this node owns the service now; False if prld does not say so."""
    done = subprocess.run(
        [prlctl, "-j", "status"], capture_output=True, timeout=CALL_TIMEOUT_S, check=False
    )
    try:
        services = json.loads(done.stdout)["services"]
    except (ValueError, KeyError):
        return False
    return any(one["name"] == service and one["state"] == "owner" for one in services)


def holder(command: list[str], address: str) -> str:
    """The node that has the address; empty if the provider does not say."""
    try:
        done = subprocess.run(
            [*command, "holder", address],
            capture_output=True,
            text=True,
            timeout=CALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip()


def move(prlctl: str, command: list[str], service: str, address: str, node: str) -> bool:
    """Let ``node`` have the address; False: it is not the owner any more."""
    seen = 0
    while seen < SURE:
        if not owns(prlctl, service):
            return False
        if holder(command, address) == node:
            seen += 1
        else:
            seen = 0
            try:
                subprocess.run(
                    [*command, "assign", address, node], timeout=CALL_TIMEOUT_S, check=True
                )
                continue
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                sys.stderr.write(f"{address}: {error}\n")
        if seen < SURE:
            time.sleep(AGAIN_S)
    return True


def main() -> int:
    """Move the addresses of the service that prld names; returns the exit status."""
    parser = argparse.ArgumentParser(description="role hook of prl: moves a cloud's addresses")
    parser.add_argument("--prlctl", default="prlctl")
    parser.add_argument("command", nargs="+", help="yours: holder ADDRESS, assign ADDRESS NODE")
    given = parser.parse_args()
    if os.environ["PRL_STATE"] != "owner":
        return 0  # the new owner takes them
    node, service = os.environ["PRL_NODE"], os.environ["PRL_SERVICE"]
    for address in os.environ["PRL_ADDRESSES"].split():
        if not move(given.prlctl, given.command, service, address, node):
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
