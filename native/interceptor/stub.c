/*
 * stub.c: an empty library whose SONAME is a path.
 *
 * Linking a shim against it makes the path the shim's DT_NEEDED, without the real library at build time.
 */
extern const int fracgpu_stub;
const int fracgpu_stub = 0;
