"""What README.md shows is what happens."""

import json
import re
from pathlib import Path

from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim.lab.lab import Lab
from fracgpu.sim.lab.options import LabOptions
from fracgpu.sim.lab.report import details
from fracgpu.sim.lab.run import run_exercises

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()

POD = """
---
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  resourceClaims:
  - {name: gpu, resourceClaimTemplateName: slice-8g}
  containers:
  - name: main
    image: none
    command: [sleep, infinity]
    resources: {claims: [{name: gpu}]}
"""


def fenced(kind: str) -> str:
    """Return the first block of README.md that is fenced as `kind`."""
    blocks: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return next(text for fence, text in blocks if fence == kind)


def test_the_claim_gives_what_it_says(native_build: NativeLibraries) -> None:
    with Lab() as lab:
        lab.apply(fenced("yaml") + POD)
        pod = lab.wait_pod("reader")
        (claim,) = lab.claims_of(pod)
        (result,) = claim["status"]["allocation"]["devices"]["results"]
        assert result["consumedCapacity"] == {"memory": "8Gi", "cores": "30", "slots": "1"}
        seen = json.loads(lab.output_of("reader", ["fracgpu-view"]))
    assert [one["total_bytes"] for one in seen["cuda"]["devices"]] == [8 << 30]


def test_the_lab_prints_what_the_page_quotes(native_build: NativeLibraries) -> None:
    report = run_exercises(LabOptions())
    printed = details(report.outcomes).splitlines()
    quoted = [line for line in fenced("").splitlines() if re.match(r"E\d|    ok ", line)]
    assert len(quoted) > 5
    assert [line for line in quoted if line not in printed] == []
