"""Makes the generated modules beside every .proto file again.

They are committed, so that neither a user nor an image build needs a protobuf compiler; the same tool versions make the
same bytes, and a test compares. The compiler runs over a temporary tree in which this folder is `fracgpu/proto`:
that is how the files get their paths in the descriptor pool and the modules their absolute imports.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
POOL_PREFIX = Path("fracgpu/proto")
# Only these have services; the gRPC plugin would write an empty module for the others.
SERVICES = (
    "dra/v1/api.proto",
    "dra/v1beta1/api.proto",
    "drahealth/v1/api.proto",
    "drahealth/v1alpha1/api.proto",
    "pluginregistration/v1/api.proto",
)
MESSAGES = ("resource/v1/generated.proto",)


def generate(output: Path) -> tuple[Path, ...]:
    """Write all generated modules under `output`, laid out as in this folder, and return their relative paths, sorted.

    Raises RuntimeError with the compiler's own text if it fails; `grpcio-tools` and `mypy-protobuf` must be installed.
    """
    with tempfile.TemporaryDirectory(prefix="fracgpu-proto-") as temporary:
        tree = Path(temporary, "source")
        made = Path(temporary, "made")
        made.mkdir()
        (tree / POOL_PREFIX.parent).mkdir(parents=True)
        (tree / POOL_PREFIX).symlink_to(HERE, target_is_directory=True)
        plain = [f"--python_out={made}", f"--mypy_out={made}"]
        _compile(tree, [*plain, f"--grpc_python_out={made}", f"--mypy_grpc_out={made}"], SERVICES)
        _compile(tree, plain, MESSAGES)
        root = made / POOL_PREFIX
        modules = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
        for module in modules:
            target = output / module
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((root / module).read_bytes())
    return tuple(modules)


def _compile(tree: Path, outputs: Sequence[str], files: Sequence[str]) -> None:
    # The plugins lie beside the interpreter that runs us, whether or not that folder is in PATH.
    scripts = Path(sys.executable).parent
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    paths = [str(POOL_PREFIX / file) for file in files]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={tree}", *plugins, *outputs, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"protobuf compiler: failed with {done.returncode}; {done.stderr.strip()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: write the modules next to their .proto files, or elsewhere with --output."""
    parser = argparse.ArgumentParser(prog="python -m fracgpu.proto.generate", description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to (default: beside the sources)")
    generate(parser.parse_args(argv).output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
