"""On the path of every script that the suite runs: no network, and no sum() of floats.

Python 3.12 made sum() of floats more accurate, so a script that uses it prints other numbers there.
"""

import builtins
import sys

_sum = builtins.sum


def _no_network(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise OSError(f"the tests run offline: {event} {args[1:]}")


def _sum_without_floats(items, /, start=0):
    items = list(items)
    if any(type(item) is float for item in items):
        raise TypeError("sum() of floats depends on the Python version: use a loop or math.fsum")
    return _sum(items, start)


sys.addaudithook(_no_network)
builtins.sum = _sum_without_floats
