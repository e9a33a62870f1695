/* array_format.c: the formats of CUDA arrays: bytes of an element, and the planes of those that have several. */
#include "array_shape.h"

#include <string.h>

enum { UINT8 = 0x01, UINT16 = 0x02, NORMALISED_FIRST = 0xc0, NORMALISED_LAST = 0xcb, BC_FIRST = 0x91, BC_LAST = 0x9e };

/* Whole elements of a fixed size; the number of channels says nothing about it. */
struct packed { int format; unsigned bytes; };
static const struct packed packed_formats[] = {
    { 0xa5, 2 }, { 0xa6, 4 }, { 0xa7, 4 },            /* YUY2, Y210, Y216 */
    { 0xa8, 4 }, { 0xa9, 4 }, { 0xb1, 8 },            /* AYUV, Y410, Y416 */
    { 0x50, 4 }, { 0x51, 2 }, { 0x52, 4 },            /* 10-10-10-2, packed 4:2:2, packed 4:4:4 */
};

/* One byte or two of luma, then chroma: two channels in one plane, or one each in two. */
struct planar { int format; unsigned bytes, planes, x_shift, y_shift; };
static const struct planar planar_formats[] = {
    { 0xb0, 1, 2, 1, 1 }, { 0x9f, 2, 2, 1, 1 }, { 0xa1, 2, 2, 1, 1 },   /* NV12, P010, P016 */
    { 0xa2, 1, 2, 1, 0 }, { 0xa3, 2, 2, 1, 0 }, { 0xa4, 2, 2, 1, 0 },   /* NV16, P210, P216 */
    { 0xb2, 1, 3, 0, 0 }, { 0xb3, 2, 3, 0, 0 },                         /* Y444 planar */
    { 0xb4, 1, 2, 0, 0 }, { 0xb5, 2, 2, 0, 0 },                         /* YUV444 semi-planar */
    { 0x53, 1, 2, 1, 1 }, { 0x54, 2, 2, 1, 1 }, { 0x55, 1, 2, 1, 0 },   /* semi-planar 4:2:0, 4:2:2, 4:4:4 */
    { 0x56, 2, 2, 1, 0 }, { 0x57, 1, 2, 0, 0 }, { 0x58, 2, 2, 0, 0 },
    { 0x59, 1, 3, 1, 1 }, { 0x5a, 2, 3, 1, 1 }, { 0x5b, 1, 3, 1, 0 },   /* planar 4:2:0, 4:2:2, 4:4:4 */
    { 0x5c, 2, 3, 1, 0 }, { 0x5d, 1, 3, 0, 0 }, { 0x5e, 2, 3, 0, 0 },
};

/* Bytes of a channel of the formats whose channels are counted apart; 0: another kind of format. */
static unsigned channel_bytes(int format)
{
    switch (format) {
    case 0x01: case 0x08: return 1;
    case 0x02: case 0x09: case 0x10: return 2;
    case 0x03: case 0x0a: case 0x20: return 4;
    default: return 0;
    }
}

/* Eight bytes for BC1 and BC4, sixteen for the others. */
static unsigned block_bytes(int format)
{
    return format <= 0x92 || format == 0x97 || format == 0x98 ? 8 : 16;
}

static int planes_of(const struct planar *format, struct plane planes[PLANES_MAX])
{
    int kind = format->bytes == 1 ? UINT8 : UINT16;
    planes[0] = (struct plane){ .bytes = format->bytes, .block = 1, .format = kind, .channels = 1 };
    unsigned channels = format->planes == 2 ? 2 : 1;
    for (unsigned i = 1; i < format->planes; i++) {
        planes[i] = (struct plane){ .bytes = format->bytes * channels, .block = 1, .x_shift = format->x_shift,
                                    .y_shift = format->y_shift, .format = kind, .channels = channels };
    }
    return (int)format->planes;
}

int format_planes(int format, unsigned channels, struct plane planes[PLANES_MAX])
{
    memset(planes, 0, PLANES_MAX * sizeof *planes);
    planes[0] = (struct plane){ .block = 1, .format = format, .channels = channels };
    if (channel_bytes(format) != 0) {
        planes[0].bytes = channel_bytes(format) * channels;
        return channels == 1 || channels == 2 || channels == 4;
    }
    if (channels < 1 || channels > 4) {
        return 0;
    }
    if (format >= NORMALISED_FIRST && format <= NORMALISED_LAST) {
        int index = format - NORMALISED_FIRST;         /* 8 or 16 bits, of 1, 2 or 4 channels, unsigned then signed */
        planes[0].bytes = (index / 3 % 2 + 1) << index % 3;
        return 1;
    }
    if (format >= BC_FIRST && format <= BC_LAST) {
        planes[0].bytes = block_bytes(format);
        planes[0].block = 4;
        return 1;
    }
    for (size_t i = 0; i < sizeof packed_formats / sizeof *packed_formats; i++) {
        if (packed_formats[i].format == format) {
            planes[0].bytes = packed_formats[i].bytes;
            return 1;
        }
    }
    for (size_t i = 0; i < sizeof planar_formats / sizeof *planar_formats; i++) {
        if (planar_formats[i].format == format) {
            return planes_of(&planar_formats[i], planes);
        }
    }
    return 0;
}
