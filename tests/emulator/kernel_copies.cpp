// Copies to shared memory that a thread has issued and not yet waited for (cp.async). The copies themselves
// are made by the kernel's own code, where the race checker sees them.
#include <deque>

#include "kernel_state.h"

namespace
{

std::deque<LsEmulatedCopy> issued[LS_MAX_THREADS];

} // namespace

void ls_emulator_copy_issued(const LsEmulatedCopy *copy)
{
    issued[ls_kernel_place().thread].push_back(*copy);
}

bool ls_emulator_copy_due(LsEmulatedCopy *copy)
{
    std::deque<LsEmulatedCopy> &own = issued[ls_kernel_place().thread];
    if (own.empty())
        return false;
    *copy = own.front();
    own.pop_front();
    return true;
}

void ls_kernel_copies_end(unsigned threads)
{
    for (unsigned i = 0; i < threads; i++)
        if (!issued[i].empty())
            ls_kernel_fault(i, "ended with copies to shared memory that it did not wait for");
}
