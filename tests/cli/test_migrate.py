"""`fracgpu migrate`: files in, files out, what is said, and that an API server takes the result."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fracgpu.cli.main import main
from fracgpu.driver.config import FractionConfig, parse_config
from fracgpu.sim import manifests
from fracgpu.sim.api import resources as r
from fracgpu.sim.api.rawjson import plain
from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.control.client import ApiClient

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "migrate"
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers:
  - name: main
    image: x
    resources:
      limits:
        nvidia.com/gpu: 1
        nvidia.com/gpumem: 3000
"""


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, list[str]]]:
    """Run `fracgpu migrate`; a text with a line break is a file's content. Returns status, output, lines on stderr."""

    def migrate(*arguments: str) -> tuple[int, str, list[str]]:
        words: list[str] = []
        for number, argument in enumerate(arguments):
            if "\n" in argument:
                path = tmp_path / f"in-{number}.yaml"
                path.write_text(argument)
                words += ["-f", str(path)]
            else:
                words.append(argument)
        status = main(["migrate", *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err.replace(f"{tmp_path}/", "").splitlines()

    return migrate


Run = Callable[..., tuple[int, str, list[str]]]


def test_a_pod(run: Run) -> None:
    status, output, said = run(POD)
    assert status == 0
    assert said == ["fracgpu migrate: objects translated: 1, templates added: 1"]
    assert (
        output
        == """\
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata:
  name: gpu-3000mi-7d2307d2
spec:
  spec:
    devices:
      requests:
      - name: gpu
        exactly:
          deviceClassName: gpu.fracgpu.dev
      config:
      - opaque:
          driver: gpu.fracgpu.dev
          parameters:
            apiVersion: gpu.fracgpu.dev/v1alpha1
            kind: FractionConfig
            memory: 3000Mi
---
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers:
  - name: main
    image: x
    resources:
      claims:
      - name: gpu
  resourceClaims:
  - name: gpu
    resourceClaimTemplateName: gpu-3000mi-7d2307d2
"""
    )


def test_the_layout_of_what_changes_stays_but_for_comments(run: Run) -> None:
    text = """\
# who wrote it
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {"on": 'yes', since: 2020-01-01}}
spec:
  template:
    spec:
      containers:
      - name: "main"   # the only one
        args:
        - |
          # no comment
          sleep  1
        - >-
          folded
        env: [{name: MODE, value: "0644"}, {name: N, value: '1'}]
        ports:
        - {containerPort: 0x1F90, protocol: TCP}
        resources: {limits: {cpu: 500m, nvidia.com/gpu: 1}, requests: {cpu: 500m}}
      securityContext: {runAsUser: 0o17, fsGroup: 0644}
"""
    status, output, said = run(text)
    assert status == 0
    assert said == [
        "in-0.yaml:1: note: Deployment web: its comments are dropped: a document that changes is written anew",
        "fracgpu migrate: objects translated: 1, templates added: 1",
    ]
    deployment = output.split("---\n")[1]
    kept = text.replace("   # the only one", "").splitlines()[1:]
    changed = kept.index("        resources: {limits: {cpu: 500m, nvidia.com/gpu: 1}, requests: {cpu: 500m}}")
    kept[changed] = "        resources: {limits: {cpu: 500m}, requests: {cpu: 500m}, claims: [{name: gpu}]}"
    name = yaml.safe_load(output.split("---\n")[0])["metadata"]["name"]
    kept += ["      resourceClaims:", "      - name: gpu", f"        resourceClaimTemplateName: {name}"]
    assert deployment.splitlines() == kept


def test_what_does_not_change_is_written_as_it_was(run: Run) -> None:
    other = (
        "\n# a comment\napiVersion: v1\nkind:   ConfigMap\nmetadata: { name: \"c\" }  # odd spaces\ndata: {x: 'ü'}\n"
    )
    status, output, said = run(f"---{other}---\n{POD}")
    assert status == 0
    assert output.startswith(other.lstrip("\n") + "---\n")
    assert len(said) == 1


def test_a_second_run_gives_the_same(run: Run) -> None:
    _, once, _ = run(f"# a comment\n---\n{POD}---\n{POD.replace('name: a', 'name: b')}")
    assert once.count("ResourceClaimTemplate\n") == 1
    status, twice, said = run(once)
    assert (status, twice) == (0, once)
    assert said == ["fracgpu migrate: objects translated: 0, templates added: 0"]


def test_what_an_alias_shares_is_changed_for_each_alone(run: Run) -> None:
    text = """\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: a}
  spec:
    containers:
    - &c
      name: main
      image: x
      resources: &r {limits: {nvidia.com/gpu: 1, cpu: 1}}
- apiVersion: v1
  kind: Pod
  metadata: {name: b}
  spec:
    containers:
    - {<<: {<<: *c, name: inner}, name: other}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: *r}
"""
    status, output, _ = run(text)
    assert status == 1, "a ConfigMap with resources of a device plugin in it is not known"
    template, listed = yaml.safe_load_all(output)
    a, b, config = listed["items"]
    for pod, name in ((a, "main"), (b, "other")):
        assert pod["spec"]["containers"] == [
            {"name": name, "image": "x", "resources": {"limits": {"cpu": 1}, "claims": [{"name": "gpu"}]}}
        ]
        assert pod["spec"]["resourceClaims"][0]["resourceClaimTemplateName"] == template["metadata"]["name"]
    assert config["data"] == {"limits": {"nvidia.com/gpu": 1, "cpu": 1}}
    assert run(output)[1] == output, "no key is given twice"


def test_json_is_read_too(run: Run) -> None:
    text = '{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},\n "spec": {"containers": [{"name": "m", '
    text += '"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}\n'
    status, output, _ = run(text)
    assert status == 0
    template, pod = yaml.safe_load_all(output)
    assert template["spec"]["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"] == "whole.gpu.fracgpu.dev"
    assert pod["spec"]["containers"][0]["resources"] == {"claims": [{"name": "gpu"}]}


def test_what_can_not_be_translated_stays_is_said_and_gives_status_1(run: Run) -> None:
    mig = POD.replace("nvidia.com/gpu: 1", "nvidia.com/mig-1g.5gb: 1")
    status, output, said = run(f"{POD}---\n{mig}")
    assert status == 1
    assert output.endswith(f"---\n{mig}")
    assert said == [
        "in-0.yaml:12: not translated: Pod a, container main: nvidia.com/mig-1g.5gb is a MIG device, which no claim of "
        "ours can be; leave it to NVIDIA's driver",
        "fracgpu migrate: objects translated: 1, templates added: 1, left as they were: 1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "in-0.yaml:2: is not YAML that Kubernetes takes: did not find expected ',' or ']'"),
        (
            "metadata:\n  name: {{ .Release.Name }}\n",
            "in-0.yaml:2: is not YAML that Kubernetes takes: found unhashable key; it looks like a template: give what "
            "comes out of it, as `helm template` prints it; nothing was written",
        ),
        (
            f"{POD}---\n\na: b: c\n",
            "in-0.yaml:14: is not YAML that Kubernetes takes: mapping values are not allowed in",
        ),
        (f"{POD}---\n- 1\n", "in-0.yaml:12: is no Kubernetes object; give apiVersion, kind and metadata"),
        ("kind: Pod\n", "in-0.yaml:1: is no Kubernetes object"),
        ("kind: {}\napiVersion: v1\n", "in-0.yaml:1: is no Kubernetes object"),
        ("a: 1\nb: 2\na: 3\n", "in-0.yaml:3: is not YAML that Kubernetes takes: 'a' is given twice"),
        ("a: !!python/object:os.system {}\n", "in-0.yaml:1: is not YAML that Kubernetes takes"),
        ("a: &a [*a]\n---\n\n", "in-0.yaml:1: is"),
        (f"a: {'[' * 200000}\n", "in-0.yaml:1: is not YAML that Kubernetes takes: it is nested too deeply"),
        ("a: b\n...\nc: d\n", "in-0.yaml:3: is not YAML that Kubernetes takes"),
    ],
)
def test_bad_yaml_is_said_in_one_line_and_nothing_is_written(run: Run, tmp_path: Path, text: str, message: str) -> None:
    status, output, said = run(text, "-o", str(tmp_path / "out.yaml"))
    assert (status, output) == (1, "")
    assert len(said) == 1
    assert said[0].startswith(f"fracgpu migrate: {message}")
    assert said[0].endswith("nothing was written")
    assert not (tmp_path / "out.yaml").exists()


def test_many_aliases_are_no_trouble(run: Run) -> None:
    lines = ["l0: &l0 [x, x]"] + [f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]" for n in range(1, 60)]
    status, _, said = run("apiVersion: v1\nkind: Strange\nmetadata: {name: a}\n" + "\n".join(lines) + "\n")
    assert status == 0
    assert len(said) == 1


def test_a_file_that_is_too_large_or_no_text(run: Run, tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate((16 << 20) + 1)
    status, _, said = run("-f", str(large))
    assert (status, said) == (
        1,
        ["fracgpu migrate: large.yaml: has more than 16 MiB; split it into smaller files; nothing was written"],
    )
    large.write_bytes(b"a: \xff\n")
    assert run("-f", str(large))[2] == [
        "fracgpu migrate: large.yaml: is not UTF-8 at byte 3; convert it with iconv; nothing was written"
    ]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "-f/--filename"),
        (("-f", "x", "--cards", "NVIDIA L4"), "is not NAME=MEMORY"),
        (("-f", "x", "--cards", "NVIDIA L4=lots"), "is not a quantity"),
        (("-f", "x", "--cards", "NVIDIA L4=1000"), "less than 1 MiB"),
        (("-f", "x", "--share-default", "0"), "at least 1Mi"),
        (("-f", "x", "--share-default", "101%"), "is not a percentage from 1 to 100"),
        (("-f", "x", "--share-default", "8Gi,many"), "is not cores from 0 to 100"),
        (("-f", "x", "--allocator", "hami"), "invalid choice"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["migrate", *arguments])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert part in line


def test_a_name_that_leads_nowhere_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    assert run("-f", str(tmp_path / "none.yaml"))[::2] == (
        2,
        ["fracgpu migrate: none.yaml: is not there; name a file, a directory or -"],
    )
    (tmp_path / "empty").mkdir()
    assert run("-f", str(tmp_path / "empty"))[0] == 2


def test_directories_and_the_output_in_one(run: Run, tmp_path: Path) -> None:
    inside = tmp_path / "d" / "below"
    inside.mkdir(parents=True)
    (tmp_path / "d" / "1.yaml").write_text(POD)
    (tmp_path / "d" / "readme.md").write_text("# not a manifest\n")
    (inside / "2.yml").write_text(POD.replace("name: a", "name: below"))
    output = tmp_path / "d" / "0-out.yaml"
    for _ in range(2):
        assert run("-f", str(tmp_path / "d"), "-o", str(output))[:2] == (0, "")
        assert output.read_text().count("kind: Pod\n") == 1
    assert run("-R", "-f", str(tmp_path / "d"), "-o", str(output))[0] == 0
    assert output.read_text().count("kind: Pod\n") == 2
    assert [path.name for path in (tmp_path / "d").iterdir() if path.name.startswith(".")] == []


def test_a_file_may_be_its_own_output(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text(POD)
    path.chmod(0o600)
    assert run("-f", str(path), "-o", str(path))[0] == 0
    assert "resourceClaimTemplateName" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_output_that_can_not_be_written(run: Run, tmp_path: Path) -> None:
    status, _, said = run(POD, "-o", str(tmp_path / "no" / "out.yaml"))
    assert status == 1
    assert said == [
        "fracgpu migrate: no/out.yaml: can not be written: No such file or directory; name another file; nothing was "
        "written"
    ]


def test_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(POD.encode())))
    status, output, _ = run("-f", "-")
    assert status == 0
    assert output.count("---\n") == 1


def test_a_name_can_not_steer_the_terminal(run: Run) -> None:
    text = POD.replace("name: a", 'name: "a\\e[2J"').replace("nvidia.com/gpu:", "nvidia.com/mig-1g:")
    assert "\x1b" not in "".join(run(text)[2])


# The result on an API server


def accepted(output: str, *, consumable_capacity: bool) -> list[dict[str, Any]]:
    with ApiServer(consumable_capacity=consumable_capacity) as server:
        client = ApiClient(server.url)
        manifests.apply(client, manifests.load(manifests.shipped()))
        return [plain(item) for item in manifests.apply(client, manifests.load(output))]


@pytest.mark.parametrize("consumable_capacity", [True, False])
@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLE.glob("hami-*.yaml")))
def test_an_api_server_takes_the_result(run: Run, name: str, consumable_capacity: bool) -> None:
    status, output, _ = run("-f", str(EXAMPLE / name))
    assert status == 0
    stored = accepted(output, consumable_capacity=consumable_capacity)
    templates = [item for item in stored if item["kind"] == r.RESOURCE_CLAIM_TEMPLATES.kind]
    assert templates
    for template in templates:
        for entry in template["spec"]["spec"]["devices"].get("config", []):
            assert parse_config(entry["opaque"]["parameters"], source="FromClaim") != FractionConfig()


def test_an_api_server_takes_the_prioritized_list(run: Run) -> None:
    text = POD.replace("gpumem: 3000", "gpumem-percentage: 25")
    cards = "NVIDIA L4=23034Mi,NVIDIA A100-SXM4-40GB=40960Mi"
    status, output, _ = run(text, "--allocator", "scheduler", "--cards", cards)
    assert status == 0
    template = accepted(output, consumable_capacity=True)[0]
    [request] = template["spec"]["spec"]["devices"]["requests"]
    assert [part["capacity"]["requests"]["memory"] for part in request["firstAvailable"]] == ["5758Mi", "10Gi"]


@pytest.mark.parametrize("path", sorted(EXAMPLE.glob("hami-*.yaml")), ids=lambda path: path.name)
def test_the_examples_beside_each_other_belong_together(run: Run, path: Path) -> None:
    _, output, _ = run("-f", str(path))
    assert output == (EXAMPLE / path.name.replace("hami-", "fracgpu-")).read_text()
