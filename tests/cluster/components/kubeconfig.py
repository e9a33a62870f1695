"""Kubeconfig files, with the credentials inside so that a file is all that a client needs."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tests.cluster.components.certificates import KeyPair


def write_kubeconfig(path: Path, *, server: str, authority: Path, client: KeyPair) -> Path:
    """Write the configuration by which a client reaches `server` with its certificate (JSON is YAML)."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "e2e",
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
        "clusters": [{"name": "e2e", "cluster": {"server": server, "certificate-authority-data": _inline(authority)}}],
        "users": [
            {
                "name": "e2e",
                "user": {
                    "client-certificate-data": _inline(client.certificate),
                    "client-key-data": _inline(client.key),
                },
            }
        ],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2))
    return path


def _inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
