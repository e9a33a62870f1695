/* What the limiter reads of the host: the config page, its faults and its changes. */
#include "limiter_units.h"

static enum fg_fault map_file(struct fg_page *page, const char *path)
{
    int descriptor = open(path, O_RDONLY);
    enum fg_fault fault = fg_page_map(page, descriptor);
    close(descriptor);
    return fault;
}

static enum fg_fault open_page(const struct fracgpu_config *config, size_t file_bytes)
{
    struct fg_page page;
    write_file("config", config, sizeof(*config), file_bytes);
    enum fg_fault fault = map_file(&page, path_of("config"));
    CHECK(fault == FG_OK || page.config == NULL);
    fg_page_close(&page);
    return fault;
}

void test_page_faults(void)
{
    struct fg_page page;
    struct fracgpu_config config = new_config(1000);
    CHECK(open_page(&config, 4096) == FG_OK);
    CHECK(open_page(&config, 4095) == FG_PAGE_TRUNCATED);
    CHECK(map_file(&page, path_of("absent")) == FG_PAGE_UNREADABLE);
    CHECK(map_file(&page, directory) == FG_PAGE_UNREADABLE);
    config = new_config(1000), config.magic = 0;
    CHECK(open_page(&config, 4096) == FG_PAGE_MAGIC);
    config = new_config(1000), config.abi_version++;
    CHECK(open_page(&config, 4096) == FG_PAGE_VERSION);
    config = new_config(1000), config.generation++;
    CHECK(open_page(&config, 4096) == FG_PAGE_GENERATION);
    config = new_config(0);
    CHECK(open_page(&config, 4096) == FG_PAGE_VALUE);
    config = new_config(1000), config.header_bytes = 8;
    CHECK(open_page(&config, 4096) == FG_PAGE_VALUE);
    config = new_config(1000), config.cores_percent = 101;
    CHECK(open_page(&config, 4096) == FG_PAGE_VALUE);
    config = new_config(1000), config.allocation_id[0] = '\0';
    CHECK(open_page(&config, 4096) == FG_PAGE_VALUE);
    config = new_config(1000), memset(config.allocation_id, 'x', sizeof(config.allocation_id));
    CHECK(open_page(&config, 4096) == FG_PAGE_VALUE);
    config = new_config(1000), config.header_bytes = sizeof(config) + 64, config.flags = 1u << 31;
    CHECK(open_page(&config, 4096) == FG_OK);
}

void test_page_changes(void)
{
    struct fracgpu_config config = new_config(1000);
    struct fg_page page;
    CHECK(fg_page_adopt(&page, &config) == FG_OK);
    CHECK(fg_page_limits(&page).memory_bytes == 1000 && fg_page_limits(&page).limited);
    /* The host writes: the old limit holds, however long it takes; then the new one. */
    config.generation = 3, config.memory_limit_bytes = 55;
    CHECK(fg_page_limits(&page).memory_bytes == 1000);
    CHECK(page.stuck_generation == 3 && fg_page_limits(&page).memory_bytes == 1000);
    config.generation = 4;
    CHECK(fg_page_limits(&page).memory_bytes == 55);
    config.generation = 6, config.flags = FRACGPU_FLAG_OBSERVE;
    CHECK(!fg_page_limits(&page).limited);
    config.generation = 8, config.flags = FRACGPU_FLAG_SUSPEND;
    CHECK(fg_page_limits(&page).limited);
    config.generation = 10, config.memory_limit_bytes = FRACGPU_NO_LIMIT;
    CHECK(!fg_page_limits(&page).limited);
    fg_page_close(&page);
}
