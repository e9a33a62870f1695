"""NVIDIA's own Python bindings of the driver API, unmodified, on the driver under test.

They bring NVIDIA's names, structures and enumerations: what our header has wrong, they find.
"""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

MIB = 1 << 20
PROGRAM = """
import json
from cuda.bindings import driver as d
def ok(reply):
    assert reply[0] == d.CUresult.CUDA_SUCCESS, reply
    return reply[1] if len(reply) == 2 else reply[1:]
size = 2 << 20
ok(d.cuInit(0))
device = ok(d.cuDeviceGet(0))
ok(d.cuCtxSetCurrent(ok(d.cuDevicePrimaryCtxRetain(device))))
found = {"total": int(ok(d.cuDeviceTotalMem(device))), "version": ok(d.cuDriverGetVersion())}
before = ok(d.cuMemGetInfo())[0]
plain = ok(d.cuMemAlloc(100 << 20))
found["taken"] = before - ok(d.cuMemGetInfo())[0]
target = bytearray(6)
ok(d.cuMemcpyHtoD(plain, b"nvidia", 6))
ok(d.cuMemcpyDtoH(target, plain, 6))
found["copied"] = target.decode()

rows, pitch = ok(d.cuMemAllocPitch(6, 2, 4))
copy = d.CUDA_MEMCPY2D()
copy.srcMemoryType = copy.dstMemoryType = d.CUmemorytype.CU_MEMORYTYPE_DEVICE
copy.srcDevice, copy.dstDevice, copy.srcPitch, copy.dstPitch = plain, rows, 3, pitch
copy.WidthInBytes, copy.Height = 3, 2
ok(d.cuMemcpy2D(copy))
ok(d.cuMemcpyDtoH(target, int(rows) + pitch, 3))
found["row"] = target[:3].decode()

stream = ok(d.cuStreamCreate(0))
ok(d.cuMemFreeAsync(ok(d.cuMemAllocAsync(1 << 20, stream)), stream))
high = d.CUmemPool_attribute.CU_MEMPOOL_ATTR_USED_MEM_HIGH
found["pool"] = int(ok(d.cuMemPoolGetAttribute(ok(d.cuDeviceGetDefaultMemPool(device)), high)))
ok(d.cuStreamSynchronize(stream))

properties, access = d.CUmemAllocationProp(), d.CUmemAccessDesc()
properties.type = d.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
properties.location.type = access.location.type = d.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
properties.location.id = access.location.id = 0
access.flags = d.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
handle, address = ok(d.cuMemCreate(size, properties, 0)), ok(d.cuMemAddressReserve(size, 0, 0, 0))
ok(d.cuMemMap(address, size, 0, handle, 0))
ok(d.cuMemSetAccess(address, size, [access], 1))
ok(d.cuMemsetD8(address, ord("v"), size))
ok(d.cuMemcpyDtoH(target, address, 6))
found["virtual"] = target.decode()
ok(d.cuMemUnmap(address, size)); ok(d.cuMemRelease(handle)); ok(d.cuMemAddressFree(address, size))

pool = d.CUmemPoolProps()
pool.allocType, pool.location.type, pool.location.id = properties.type, properties.location.type, 0
ok(d.cuMemPoolDestroy(ok(d.cuMemPoolCreate(pool))))
kind = d.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
found["kind"] = int(ok(d.cuPointerGetAttribute(kind, plain)))
found["refused"] = [int(d.cuMemAlloc(1 << 50)[0]), int(d.cuMemFree(12345)[0])]
ok(d.cuMemFree(plain))
print(json.dumps(found))
"""

GRAPHS = """
import json
from cuda.bindings import driver as d
def ok(reply):
    assert reply[0] == d.CUresult.CUDA_SUCCESS, reply
    return reply[1] if len(reply) == 2 else reply[1:]
size = 64 << 20
ok(d.cuInit(0))
ok(d.cuCtxSetCurrent(ok(d.cuDevicePrimaryCtxRetain(0))))
stream = ok(d.cuStreamCreate(d.CUstream_flags.CU_STREAM_NON_BLOCKING))
graph = ok(d.cuGraphCreate(0))
params = d.CUgraphNodeParams()
params.type = d.CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEM_ALLOC
params.alloc.poolProps.allocType = d.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
params.alloc.poolProps.location.type = d.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
params.alloc.poolProps.location.id = 0
params.alloc.bytesize = size
alloc = ok(d.cuGraphAddNode(graph, None, 0, params))
address = params.alloc.dptr
fill = d.CUDA_MEMSET_NODE_PARAMS()
fill.dst, fill.value, fill.elementSize, fill.width, fill.height = address, 0x01020304, 4, 2, 1
fill = ok(d.cuGraphAddMemsetNode(graph, [alloc], 1, fill, ok(d.cuCtxGetCurrent())))
target = ok(d.cuMemAlloc(16))
copy = d.CUDA_MEMCPY3D()
copy.srcMemoryType = copy.dstMemoryType = d.CUmemorytype.CU_MEMORYTYPE_DEVICE
copy.srcDevice, copy.dstDevice, copy.WidthInBytes, copy.Height, copy.Depth = address, target, 8, 1, 1
copy = ok(d.cuGraphAddMemcpyNode(graph, [fill], 1, copy, ok(d.cuCtxGetCurrent())))
free = ok(d.cuGraphAddMemFreeNode(graph, [copy], 1, address))
found = {"types": [int(ok(d.cuGraphNodeGetType(node))) for node in (alloc, fill, copy, free)]}
found["size"] = ok(d.cuGraphMemAllocNodeGetParams(alloc)).bytesize
found["edges"] = ok(d.cuGraphGetEdges(graph))[-1]
instantiation = d.CUDA_GRAPH_INSTANTIATE_PARAMS()
instantiation.flags = d.CUgraphInstantiate_flags.CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD
instantiation.hUploadStream = stream
executable = ok(d.cuGraphInstantiateWithParams(graph, instantiation))
reserved = d.CUgraphMem_attribute.CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT
found["reserved"] = int(ok(d.cuDeviceGetGraphMemAttribute(0, reserved)))
ok(d.cuGraphLaunch(executable, stream))
ok(d.cuStreamSynchronize(stream))
result = bytearray(8)
ok(d.cuMemcpyDtoH(result, target, 8))
found["result"] = result.hex()
ok(d.cuStreamBeginCapture(stream, d.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL))
found["capturing"] = int(ok(d.cuStreamIsCapturing(stream)))
ok(d.cuMemFreeAsync(ok(d.cuMemAllocAsync(size, stream)), stream))
captured = ok(d.cuStreamEndCapture(stream))
found["captured"] = ok(d.cuGraphGetNodes(captured, 9))[-1]
ok(d.cuGraphExecDestroy(executable)); ok(d.cuGraphDestroy(graph)); ok(d.cuGraphDestroy(captured))
ok(d.cuDeviceGraphMemTrim(0))
found["kept"] = int(ok(d.cuDeviceGetGraphMemAttribute(0, reserved)))
print(json.dumps(found))
"""


def run_bindings(program: str, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-bindings is not installed")
def test_nvidias_bindings_of_graphs(environment: dict[str, str]) -> None:
    assert run_bindings(GRAPHS, environment) == {
        "types": [10, 2, 1, 11],
        "size": 64 * MIB,
        "edges": 3,
        "reserved": 64 * MIB,
        "result": "0403020104030201",
        "capturing": 1,
        "captured": 2,
        "kept": 0,
    }


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-bindings is not installed")
def test_nvidias_bindings(environment: dict[str, str]) -> None:
    found = run_bindings(PROGRAM, environment)
    assert found.pop("version") >= 12000
    assert found.pop("total") > 100 * MIB
    assert found.pop("pool") >= MIB
    assert found == {
        "taken": 100 * MIB,
        "copied": "nvidia",
        "row": "dia",
        "virtual": "vvvvvv",
        "kind": 2,
        "refused": [2, 1],
    }
