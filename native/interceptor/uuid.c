/*
 * uuid.c: see uuid.h.
 */
#include "uuid.h"

#include <string.h>

static int digit(char character)
{
    if (character >= '0' && character <= '9')
        return character - '0';
    if (character >= 'a' && character <= 'f')
        return character - 'a' + 10;
    if (character >= 'A' && character <= 'F')
        return character - 'A' + 10;
    return -1;
}

bool fg_uuid_parse(const char *text, size_t length, uint8_t uuid[16])
{
    if (length < FG_UUID_TEXT_LENGTH || memcmp(text, "GPU-", 4) != 0)
        return false;
    int count = 0;
    for (int index = 4; index < FG_UUID_TEXT_LENGTH; index++) {
        bool dash = index == 12 || index == 17 || index == 22 || index == 27;
        if (dash) {
            if (text[index] != '-')
                return false;
            continue;
        }
        int value = digit(text[index]);
        if (value < 0)
            return false;
        uuid[count / 2] = (uint8_t)(count % 2 == 0 ? value << 4 : uuid[count / 2] | value);
        count++;
    }
    return true;
}
