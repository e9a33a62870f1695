"""An interruption of the lab is never lost, wherever it hits."""

from __future__ import annotations

import subprocess
import sys

# What the lab does meanwhile is played: the signal comes while a weak reference's callback runs, or a finalizer.
PROGRAM = """
import os, signal, sys, time, weakref
from fracgpu.cli import lab

def hit():
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):
        pass

class Thing:
    def __del__(self):
        if sys.argv[1] == "finalizer":
            hit()

def run(_):
    thing = Thing()
    callback = weakref.ref(thing, lambda _: sys.argv[1] == "callback" and hit())
    del thing
    try:
        time.sleep(30)
    finally:
        print("cleaned up")
    return 0

lab._run = run
sys.exit(lab.run_lab(None))
"""


def test_a_signal_during_a_callback_or_a_finalizer_still_interrupts() -> None:
    for place in ("callback", "finalizer"):
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, place], capture_output=True, text=True, timeout=60, check=False
        )
        assert (result.returncode, result.stdout) == (130, "cleaned up\n"), place
        assert result.stderr == "fracgpu lab: interrupted; nothing is left behind\n"


def test_what_else_is_lost_is_still_told() -> None:
    broken = PROGRAM.replace("os.kill(os.getpid(), signal.SIGTERM)", 'raise ValueError("lost")').replace("(30)", "(0)")
    result = subprocess.run([sys.executable, "-c", broken, "finalizer"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "ValueError: lost" in result.stderr
