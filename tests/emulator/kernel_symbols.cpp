// The program's own symbol table: where its __shared__ variables are and what its kernels are called.
#include "address_sanitizer.h"
#include "kernel_state.h"

#include <algorithm>
#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <map>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace
{

struct Function {
    const char *address;
    size_t bytes;
    const char *symbol;
};

struct Symbols {
    std::vector<LsSharedVariable> shared;
    std::vector<Function> functions; // by address
    std::map<const void *, std::string> names;
    uintptr_t offset; // of the program's addresses against its file's
    char *image_begin, *image_end;
};

int find_image(struct dl_phdr_info *info, size_t, void *context)
{
    auto *symbols = static_cast<Symbols *>(context);
    symbols->offset = info->dlpi_addr;
    symbols->image_begin = (char *)UINTPTR_MAX;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) &segment = info->dlpi_phdr[i];
        if (segment.p_type != PT_LOAD)
            continue;
        char *begin = (char *)(info->dlpi_addr + segment.p_vaddr);
        symbols->image_begin = std::min(symbols->image_begin, begin);
        symbols->image_end = std::max(symbols->image_end, begin + segment.p_memsz);
    }
    return 1; // the first object is the program
}

// The file stays mapped: names point into it.
const char *map_program()
{
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0)
        ls_emulator_fault("cannot read /proc/self/exe, which says where shared memory is");
    void *image = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (image == MAP_FAILED)
        ls_emulator_fault("cannot map /proc/self/exe, which says where shared memory is");
    return static_cast<const char *>(image);
}

// What of a variable is its own: clang's address sanitizer counts the poisoned bytes behind it as a part.
size_t own_bytes(char *address, size_t bytes)
{
    void *poisoned = __asan_region_is_poisoned(address, bytes);
    return poisoned ? (size_t)((char *)poisoned - address) : bytes;
}

void take_symbol(Symbols *symbols, const ElfW(Sym) & symbol, const char *name)
{
    if (symbol.st_shndx == SHN_UNDEF)
        return;
    char *address = (char *)(symbols->offset + symbol.st_value);
    int type = ELF64_ST_TYPE(symbol.st_info);
    if (type == STT_FUNC)
        symbols->functions.push_back({address, symbol.st_size, name});
    else if (type == STT_OBJECT && strncmp(name, "_Z", 2) == 0 && strstr(name, "B6shared"))
        symbols->shared.push_back({address, own_bytes(address, symbol.st_size), name});
}

Symbols *read_symbols()
{
    auto *symbols = new Symbols();
    dl_iterate_phdr(find_image, symbols);
    const char *file = map_program();
    auto *header = reinterpret_cast<const ElfW(Ehdr) *>(file);
    auto *sections = reinterpret_cast<const ElfW(Shdr) *>(file + header->e_shoff);
    bool found = false;
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB)
            continue;
        found = true;
        auto *symbol = reinterpret_cast<const ElfW(Sym) *>(file + sections[i].sh_offset);
        const char *strings = file + sections[sections[i].sh_link].sh_offset;
        for (size_t left = sections[i].sh_size / sizeof *symbol; left; left--, symbol++)
            take_symbol(symbols, *symbol, strings + symbol->st_name);
    }
    if (!found)
        ls_emulator_fault("this program was stripped; its symbols say where shared memory is, so keep them");
    std::sort(symbols->shared.begin(), symbols->shared.end(),
        [](const LsSharedVariable &a, const LsSharedVariable &b) { return a.address < b.address; });
    std::sort(symbols->functions.begin(), symbols->functions.end(),
        [](const Function &a, const Function &b) { return a.address < b.address; });
    return symbols;
}

Symbols *symbols()
{
    static Symbols *const table = read_symbols();
    return table;
}

} // namespace

const LsSharedVariable *ls_symbols_shared(size_t *count)
{
    *count = symbols()->shared.size();
    return symbols()->shared.data();
}

size_t ls_symbols_file_address(const void *address)
{
    return (uintptr_t)address - symbols()->offset;
}

bool ls_symbols_image(const void *address, size_t bytes)
{
    auto *begin = static_cast<const char *>(address);
    return begin >= symbols()->image_begin && begin + bytes <= symbols()->image_end;
}

const char *ls_symbols_demangle(const char *symbol)
{
    int status;
    char *name = abi::__cxa_demangle(symbol, NULL, NULL, &status);
    return name ? name : symbol;
}

const char *ls_symbols_function(const void *address)
{
    std::string &name = symbols()->names[address];
    if (!name.empty())
        return name.c_str();
    auto *target = static_cast<const char *>(address);
    auto &functions = symbols()->functions;
    auto after = std::upper_bound(functions.begin(), functions.end(), target,
        [](const char *wanted, const Function &f) { return wanted < f.address; });
    if (after == functions.begin() ||
        target >= (after - 1)->address + std::max((after - 1)->bytes, (size_t)1))
        return name.assign("a function without symbol").c_str();
    const char *symbol = (after - 1)->symbol;
    const char *text = ls_symbols_demangle(symbol);
    name = text;
    if (text != symbol)
        free((void *)text);
    return name.c_str();
}
