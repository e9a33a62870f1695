"""A process that makes the CUDA driver calls it is told to, one JSON line each.

Tests start several: the driver keeps its state per process, and what matters most happens between processes. A
request is {"f": symbol, "args": [...]}; an argument is ["u32"|"u64"|"i32"|"f32", value], ["null"], ["bytes", hex]
(memory with that content), ["out", kind], ["buffer", size] (memory whose content comes back) or ["inout", hex] (both).
The reply is {"rc": CUresult, "out": [...]}.
{"python": source} runs source with `call` at hand and replies with its `result`.
"""

import ctypes
import json
import os
import sys
from typing import Any

KINDS = {
    "i32": ctypes.c_int32,
    "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64,
    "f32": ctypes.c_float,
}
cuda = ctypes.CDLL("libcuda.so.1")


def call(name: str, *arguments: list[Any]) -> dict[str, Any]:
    """Call the exported function `name`; see the module for what an argument is."""
    values: list[Any] = []
    outs: list[Any] = []
    for kind, *rest in arguments:
        if kind in KINDS:
            values.append(KINDS[kind](rest[0]))
        elif kind == "null":
            values.append(None)
        elif kind == "bytes":
            content = bytes.fromhex(rest[0])
            values.append(ctypes.create_string_buffer(content, len(content)))
        elif kind == "inout":
            content = bytes.fromhex(rest[0])
            outs.append(ctypes.create_string_buffer(content, len(content)))
            values.append(outs[-1])
        elif kind == "out":
            outs.append(KINDS[rest[0]]())
            values.append(ctypes.byref(outs[-1]))
        elif kind == "buffer":
            outs.append(ctypes.create_string_buffer(rest[0]))
            values.append(outs[-1])
        else:
            raise ValueError(kind)
    code = getattr(cuda, name)(*values)
    return {"rc": code, "out": [out.raw.hex() if isinstance(out, ctypes.Array) else out.value for out in outs]}


def main() -> None:
    """Answer requests until stdin ends."""
    scope: dict[str, Any] = {"call": call, "cuda": cuda, "ctypes": ctypes, "os": os}
    for line in sys.stdin:
        request = json.loads(line)
        if "python" in request:
            exec(request["python"], scope)  # noqa: S102
            reply: dict[str, Any] = {"rc": 0, "out": [scope["result"]]}
        else:
            reply = call(request["f"], *request["args"])
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
