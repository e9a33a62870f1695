"""Starts plugins by forking, so that a hundred of them cost seconds: importing is most of a plugin's start.

Each line of input is {"arguments": [...], "log": path, "kill_at": N, a name or null}; the answer is the process id of
the plugin. It kills itself, with the signal that nobody can catch, at its N-th kill point or the first of that name.
The janitor's are not counted: it works beside the others, so a number would mean another point each time. An empty line
waits for the oldest plugin; the answer is its exit code, negative for a signal: SIGABRT for one that does not end by
itself.
"""

import json
import os
import signal
import sys
import threading

from fracgpu.driver.kill_points import watched
from fracgpu.kubeletplugin.main import main

PATIENCE_SECONDS = 60.0


def run(arguments: list[str], log: str, kill_at: int | str | None) -> int:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 2)
    reached = 0

    def observe(effect: str) -> None:
        nonlocal reached
        if threading.current_thread().name == "janitor":
            return
        reached += 1
        os.write(2, f"kill point {reached}: {effect}\n".encode())
        if kill_at in (reached, effect):
            os.kill(os.getpid(), signal.SIGKILL)

    with watched(observe):
        return main(arguments)


def answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def serve() -> None:
    children: list[int] = []
    for line in sys.stdin:
        if not line.strip():
            child = children.pop(0)
            impatience = threading.Timer(PATIENCE_SECONDS, os.kill, [child, signal.SIGABRT])
            impatience.start()
            _, status = os.waitpid(child, 0)
            impatience.cancel()
            answer(os.waitstatus_to_exitcode(status))
            continue
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(run(order["arguments"], order["log"], order["kill_at"]))
        children.append(child)
        answer(child)


serve()
