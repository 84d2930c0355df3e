"""No process of a test reaches another machine: names are not looked up, and connections go to this one alone.

Python imports a module of this name by itself where its folder is on the path, so that what tests start keeps to it
too. Who tries is noted in the file that HRNET_TEST_NETWORK names, one line each, by which `tests/conftest.py` fails.
"""

import contextlib
import os
import socket
from typing import Any

NOTES = "HRNET_TEST_NETWORK"
HERE = {"", "0.0.0.0", "127.0.0.1", "::", "::1", "localhost", "localhost.localdomain"}


def is_here(host: Any) -> bool:
    """Whether a host is this machine, told without asking for names."""
    if host is None:
        return True
    text = host.decode(errors="replace") if isinstance(host, bytes) else str(host)
    return text in HERE or text.startswith("127.") or text.lower() == socket.gethostname().lower()


def note(what: str) -> None:
    """Say who tried; the line is whole, whichever process writes it."""
    if os.environ.get(NOTES):
        with contextlib.suppress(OSError), open(os.environ[NOTES], "a") as file:
            file.write(f"{what}\n")


def _look_up(real: Any) -> Any:
    def asked(host: Any, *args: Any, **options: Any) -> Any:
        if not is_here(host):
            note(f"the address of {host}")
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known (tests have no network)")
        return real(host, *args, **options)

    return asked


def _reach(real: Any) -> Any:
    def asked(self: socket.socket, address: Any, *args: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_here(address[0]):
            note(f"a connection to {address[0]}:{address[1]}")
            raise OSError(101, "Network is unreachable (tests have none)")
        return real(self, address, *args)

    return asked


if not hasattr(socket, "kept_to_this_machine"):
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"):
        setattr(socket, name, _look_up(getattr(socket, name)))
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, _reach(getattr(socket.socket, name)))
    socket.kept_to_this_machine = True  # type: ignore[attr-defined]
