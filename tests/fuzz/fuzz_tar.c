// fuzz: data
// Tar archives: whatever the bytes, they are refused in one line, or their members have names and lie within.
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "require.h"
#include "tar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static LsTarMember member;
    int fd = memfd_create("tar", 0);
    require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    LsTar tar = {.path = "input", .fd = fd, .size = size};
    bool end = false;
    LsStatus status = LS_OK;
    for (size_t members = 0; status == LS_OK && !end; members++) {
        uint64_t before = tar.at;
        status = ls_tar_next(&tar, &member, &end);
        require(members <= size / 512);
        if (status != LS_OK || end)
            continue;
        require(tar.at > before && strlen(member.name) < sizeof member.name);
        require(member.offset <= size && member.size <= size - member.offset);
    }
    close(fd);
    if (status != LS_OK) {
        require(status == LS_BAD_DATA);
        require(strncmp(ls_status_message(), "input: ", 7) == 0 && strchr(ls_status_message(), '\n') == NULL);
    }
    return 0;
}
