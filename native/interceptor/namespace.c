/*
 * namespace.c: see namespace.h. The tables of the loaded objects are read as the ELF and GNU hash formats say.
 */
#include "namespace.h"

#include <link.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern ElfW(Dyn) _DYNAMIC[] __attribute__((visibility("hidden")));

struct tables {
    const ElfW(Sym) *symbols;
    const char *strings;
    const uint32_t *gnu;
    const uint32_t *plain;
};

/* The loader has made addresses of the entries, except where it may not write to them. */
static const void *address_in(const struct link_map *object, ElfW(Addr) value)
{
    return (const void *)(value < object->l_addr ? value + object->l_addr : value);
}

static struct tables tables_of(const struct link_map *object)
{
    struct tables found = {NULL, NULL, NULL, NULL};
    for (const ElfW(Dyn) *entry = object->l_ld; entry->d_tag != DT_NULL; entry++) {
        const void *address = address_in(object, entry->d_un.d_ptr);
        if (entry->d_tag == DT_SYMTAB)
            found.symbols = address;
        else if (entry->d_tag == DT_STRTAB)
            found.strings = address;
        else if (entry->d_tag == DT_GNU_HASH)
            found.gnu = address;
        else if (entry->d_tag == DT_HASH)
            found.plain = address;
    }
    return found;
}

/* number of buckets, index of the first symbol, words of the filter, a shift; filter, buckets, chain */
static bool in_gnu_table(const struct tables *tables, const char *name)
{
    uint32_t hash = 5381;
    for (const char *at = name; *at != '\0'; at++)
        hash = hash * 33 + (unsigned char)*at;
    uint32_t first = tables->gnu[1];
    const uint32_t *buckets = (const uint32_t *)((const ElfW(Addr) *)(tables->gnu + 4) + tables->gnu[2]);
    const uint32_t *chain = buckets + tables->gnu[0];
    uint32_t index = tables->gnu[0] == 0 ? 0 : buckets[hash % tables->gnu[0]];
    if (index < first || index == 0)
        return false;
    for (;; index++) {
        uint32_t entry = chain[index - first];
        if ((entry | 1) == (hash | 1) && strcmp(tables->strings + tables->symbols[index].st_name, name) == 0)
            return true;
        /* The last of its bucket. */
        if (entry & 1)
            return false;
    }
}

static bool in_plain_table(const struct tables *tables, const char *name)
{
    for (uint32_t index = 1; index < tables->plain[1]; index++) {
        const ElfW(Sym) *symbol = &tables->symbols[index];
        if (symbol->st_shndx != SHN_UNDEF && strcmp(tables->strings + symbol->st_name, name) == 0)
            return true;
    }
    return false;
}

static bool may_define(const struct link_map *object, const char *name)
{
    struct tables tables = tables_of(object);
    if (tables.symbols == NULL || tables.strings == NULL || (tables.gnu == NULL && tables.plain == NULL))
        return true;
    return tables.gnu != NULL ? in_gnu_table(&tables, name) : in_plain_table(&tables, name);
}

bool fg_may_look_up(void *library, const char *name)
{
    /* What dlopen returns is the object's link map: dlinfo(3) gives no other one. */
    const struct link_map *object = library;
    while (object->l_prev != NULL)
        object = object->l_prev;
    /* The first namespace begins with the program, which has no name. */
    if (object->l_name == NULL || object->l_name[0] == '\0')
        return true;
    for (; object != NULL; object = object->l_next) {
        /* The linker itself is here by proxy, without tables. */
        if (object->l_ld != NULL && object->l_ld != _DYNAMIC && may_define(object, name))
            return true;
    }
    return false;
}
