/*
 * source_standalone.c: limits from the environment, state files below a prefix.
 *
 *   FRACGPU_ALLOCATION_<16 hex>=<request> <gpu uuid> <memory>Mi <cores>
 *   FRACGPU_COUNT_OVERHEAD=0: contexts and modules are not charged
 *   FRACGPU_PREFIX=<directory that holds allocations/<16 hex>/state>; default: the directory of this library
 *
 * For machines where nothing can be mounted. Whoever sets the environment sets the limit, so this is a convenience
 * and not an enforcement; the container build does not contain this file.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

#include "source.h"
#include "uuid.h"

#define KEY_PREFIX "FRACGPU_ALLOCATION_"
#define PREFIX_KEY "FRACGPU_PREFIX"
#define OVERHEAD_KEY "FRACGPU_COUNT_OVERHEAD"

enum { HASH_DIGITS = 16 };

extern char **environ;

static const char *value_of(const char *key)
{
    size_t length = strlen(key);
    for (char **entry = environ; entry != NULL && *entry != NULL; entry++) {
        if (strncmp(*entry, key, length) == 0 && (*entry)[length] == '=')
            return *entry + length + 1;
    }
    return NULL;
}

static bool is_hash(const char *text)
{
    return strspn(text, "0123456789abcdef") == HASH_DIGITS && text[HASH_DIGITS] == '=';
}

int fg_source_names(struct fg_source_name names[FG_MEMBERS_MAX])
{
    int count = 0;
    for (char **entry = environ; entry != NULL && *entry != NULL; entry++) {
        const char *hash = *entry + strlen(KEY_PREFIX);
        if (strncmp(*entry, KEY_PREFIX, strlen(KEY_PREFIX)) != 0 || !is_hash(hash))
            continue;
        if (count == FG_MEMBERS_MAX)
            return -1;
        memcpy(names[count].text, hash, HASH_DIGITS);
        names[count++].text[HASH_DIGITS] = '\0';
    }
    fg_source_sort(names, count);
    return count == 0 ? -1 : count;
}

/* Digits up to `terminator`; the cursor then stands behind it. */
static bool parse_number(const char **cursor, const char *terminator, uint64_t highest, uint64_t *number)
{
    const char *text = *cursor;
    *number = 0;
    for (; *text >= '0' && *text <= '9'; text++) {
        *number = *number * 10 + (uint64_t)(*text - '0');
        if (*number > highest)
            return false;
    }
    if (text == *cursor || strncmp(text, terminator, strlen(terminator)) != 0)
        return false;
    *cursor = text + strlen(terminator);
    return true;
}

static bool parse_value(const char *value, struct fracgpu_config *config)
{
    uint64_t memory_mib, cores;
    const char *cursor = strchr(value, ' ');
    if (cursor == NULL || cursor == value)
        return false;
    cursor++;
    if (!fg_uuid_parse(cursor, strlen(cursor), config->device_uuid) || cursor[FG_UUID_TEXT_LENGTH] != ' ')
        return false;
    cursor += FG_UUID_TEXT_LENGTH + 1;
    if (!parse_number(&cursor, "Mi ", UINT64_MAX >> 21, &memory_mib) || memory_mib == 0)
        return false;
    if (!parse_number(&cursor, "", 100, &cores) || *cursor != '\0')
        return false;
    config->memory_limit_bytes = memory_mib << 20;
    config->cores_percent = (uint32_t)cores;
    return true;
}

enum fg_fault fg_source_open(const struct fg_source_name *name, struct fg_page *page, struct fracgpu_config *storage)
{
    char key[sizeof(KEY_PREFIX) + HASH_DIGITS] = KEY_PREFIX;
    memcpy(key + strlen(KEY_PREFIX), name->text, HASH_DIGITS + 1);
    const char *value = value_of(key);
    memset(storage, 0, sizeof(*storage));
    if (value == NULL || !parse_value(value, storage))
        return FG_PAGE_VALUE;
    storage->magic = FRACGPU_CONFIG_MAGIC;
    storage->abi_version = FRACGPU_ABI_VERSION;
    storage->header_bytes = sizeof(*storage);
    storage->generation = 2;
    const char *overhead = value_of(OVERHEAD_KEY);
    if (overhead != NULL && strcmp(overhead, "0") == 0)
        storage->flags = FRACGPU_FLAG_IGNORE_OVERHEAD;
    memcpy(storage->allocation_id, name->text, HASH_DIGITS + 1);
    return fg_page_adopt(page, storage);
}

static bool own_directory(char *path, size_t bytes)
{
    Dl_info info;
    if (dladdr((void *)&own_directory, &info) == 0 || info.dli_fname == NULL)
        return false;
    const char *slash = strrchr(info.dli_fname, '/');
    size_t length = slash == NULL ? 0 : (size_t)(slash - info.dli_fname);
    if (length == 0 || length >= bytes)
        return false;
    memcpy(path, info.dli_fname, length);
    path[length] = '\0';
    return true;
}

bool fg_source_state_path(const struct fg_source_name *name, char *path, size_t bytes)
{
    char directory[FG_PATH_BYTES];
    char below[FG_PATH_BYTES];
    const char *prefix = value_of(PREFIX_KEY);
    if (prefix == NULL || prefix[0] == '\0') {
        if (!own_directory(directory, sizeof(directory)))
            return false;
        prefix = directory;
    }
    return fg_path_join(below, sizeof(below), "/allocations/", name->text, "/state") &&
           fg_path_join(path, bytes, prefix, below, "");
}

bool fg_source_real_library(const char *name, char *path, size_t bytes)
{
    /* DT_NEEDED says $ORIGIN, which is expanded here: in a call of dlopen it would mean the directory of whichever
     * library the call comes from, and sanitizers and profilers put themselves in between. */
    char directory[FG_PATH_BYTES];
    return own_directory(directory, sizeof(directory)) && fg_path_join(path, bytes, directory, "/driver/", name);
}
