"""What a claim adds to the start of a pod on a real Kubernetes: from its creation to the return of its first CUDA call.

    python -m bench.cluster.run [--pairs 25] [--json bench/results/cluster.json]

As root, in a machine like that of `make e2e`. The same program in the same image runs with a slice by a claim template
and without a claim; pods of both kinds start in turns, one at a time, so their ratio holds where the seconds do not.
The clock is the node's for both ends: the client notes it before it sends the pod, the program prints it.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fracgpu.driver.errors import FracgpuError
from tests.cluster.run import run_on_own_machine

PARTS = {
    "total": "creation to return of the first CUDA call",
    "scheduled": "  creation to bound (claim made, allocated)",
    "node": "  bound to the program's first statement",
    "prepare": "    of it Prepare, by the plugin's metric",
    "program": "  first statement to return of cuInit",
}


def main() -> int:
    """Measure, print, and write the numbers down if asked to; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--pairs", type=int, default=25, help="pods of each kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory) / "result.json"
        program = [sys.executable, "-m", "bench.cluster.measure", str(result), str(arguments.pairs)]
        try:
            status = run_on_own_machine(program)
        except FracgpuError as error:
            sys.stderr.write(f"make bench-e2e: {error}\n")
            return 1
        if status:
            return status
        text = result.read_text()
    print_table(json.loads(text))
    if arguments.json:
        arguments.json.write_text(text)
    return 0


def print_table(numbers: dict[str, Any]) -> None:
    """Print seconds by part, and the ratios."""
    kinds = numbers["seconds"]
    print(f"{'seconds':44}" + "".join(f"{kind + ' p50':>20}{'p90':>8}" for kind in kinds))
    for part, words in PARTS.items():
        cells = "".join(f"{kind[part]['p50_s']:20.3f}{kind[part]['p90_s']:8.3f}" for kind in kinds.values())
        print(f"{words:44}{cells}")
    for name, value in numbers.items():
        if name != "seconds":
            print(f"{name}: {value}")


if __name__ == "__main__":
    sys.exit(main())
