"""The native side of fracgpu and its Python binding.

The C parts (interceptor, limiter, model GPU, probes) run where CUDA programs run; the Python modules here let
host code write and read the two files it shares with them, and find the built libraries. They talk through
files only: no C code of ours is ever loaded into a host process.
"""
