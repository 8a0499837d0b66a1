// Shuffles, votes and barriers of a warp, by the rules of the PTX manual (shfl.sync, vote.sync,
// bar.warp.sync): a lane waits until all lanes of its mask that have not ended came to the same instruction
// with the same mask. What the manual leaves undefined is a fault here.
#include "kernel_warp.h"

namespace
{

bool same_meeting(const LsKernelThread *a, const LsKernelThread *b)
{
    return a->kind == b->kind && a->mask == b->mask && ls_same_site(a->site, b->site);
}

// The lane whose value a shuffle returns.
unsigned source_lane(const LsKernelThread *t, unsigned lane)
{
    unsigned width = (unsigned)t->width, first = lane & ~(width - 1), last = first + width - 1;
    switch (t->kind) {
    case LS_MEET_SHUFFLE:
        return first | (t->lane & (width - 1));
    case LS_MEET_SHUFFLE_UP: // from a lane below the segment: the own value
        return t->lane <= lane - first ? lane - t->lane : lane;
    case LS_MEET_SHUFFLE_DOWN:
        return t->lane <= last - lane ? lane + t->lane : lane;
    default: // LS_MEET_SHUFFLE_XOR: a lower segment can be read, a higher one cannot
        return (lane ^ t->lane) <= last ? lane ^ t->lane : lane;
    }
}

void shuffle(unsigned warp, unsigned lane)
{
    LsKernelThread *t = ls_kernel_lane(warp, lane);
    unsigned source = source_lane(t, lane);
    if (!(t->mask >> source & 1))
        ls_kernel_fault(warp * LS_WARP + lane, "reads lane %u in %s:%d, which is not in its mask 0x%08x",
            source, t->site.file, t->site.line, t->mask);
    if (ls_kernel_warp(warp)->ended >> source & 1)
        ls_kernel_fault(warp * LS_WARP + lane, "reads lane %u in %s:%d, which has ended or never existed",
            source, t->site.file, t->site.line);
    t->result = ls_kernel_lane(warp, source)->value;
}

uint64_t vote(unsigned warp, unsigned int lanes, enum LsEmulatedMeeting kind)
{
    unsigned int ballot = 0;
    for (unsigned lane = 0; lane < LS_WARP; lane++)
        if (lanes >> lane & 1)
            ballot |= (unsigned int)ls_kernel_lane(warp, lane)->value << lane;
    return kind == LS_MEET_ALL ? ballot == lanes : kind == LS_MEET_ANY ? ballot != 0 : ballot;
}

// What the lanes gave lies side by side until the warp meets again, which is when all of them have read it.
void gather(unsigned warp, unsigned lane)
{
    static char gathered[LS_MAX_WARPS][LS_WARP * LS_GATHERED_BYTES];
    LsKernelThread *t = ls_kernel_lane(warp, lane);
    char *all = gathered[warp];
    memcpy(all + lane * t->lane, (const void *)(uintptr_t)t->value, t->lane);
    t->result = (uint64_t)(uintptr_t)all;
}

void complete(unsigned warp, unsigned int lanes, enum LsEmulatedMeeting kind)
{
    bool votes = kind >= LS_MEET_BALLOT;
    uint64_t result = votes ? vote(warp, lanes, kind) : 0;
    for (unsigned lane = 0; lane < LS_WARP; lane++) {
        if (!(lanes >> lane & 1))
            continue;
        if (votes)
            ls_kernel_lane(warp, lane)->result = result;
        else if (kind == LS_MEET_GATHER)
            gather(warp, lane);
        else if (kind != LS_MEET_WARP)
            shuffle(warp, lane);
    }
    // Only __syncwarp orders memory; the manual says of shuffles and votes that they do not.
    if (kind == LS_MEET_WARP && ls_kernel_observer)
        ls_kernel_observer->warp_barrier(warp, lanes);
    ls_kernel_warp(warp)->waiting &= ~lanes;
    ls_kernel_release_lanes(warp, lanes);
}

// Completes the meeting that this lane waits in, if all are there.
void try_complete(unsigned warp, unsigned lane)
{
    const LsKernelThread *self = ls_kernel_lane(warp, lane);
    const LsKernelWarp *state = ls_kernel_warp(warp);
    unsigned int lanes = self->mask & ~state->ended;
    if (self->kind == LS_MEET_GATHER && lanes != self->mask)
        ls_kernel_fault(warp * LS_WARP + lane,
            "comes to an instruction of the whole warp in %s:%d, but lanes 0x%08x have ended",
            self->site.file, self->site.line, state->ended);
    if (lanes & ~state->waiting)
        return;
    for (unsigned other = 0; other < LS_WARP; other++) {
        const LsKernelThread *t = ls_kernel_lane(warp, other);
        if ((lanes >> other & 1) && !same_meeting(self, t))
            ls_kernel_fault(warp * LS_WARP + lane,
                "waits at %s:%d with mask 0x%08x, but lane %u of its warp waits at %s:%d with mask 0x%08x",
                self->site.file, self->site.line, self->mask, other, t->site.file, t->site.line, t->mask);
    }
    complete(warp, lanes, self->kind);
}

} // namespace

void ls_warp_lane_arrived(unsigned thread)
{
    unsigned warp = thread / LS_WARP, lane = thread % LS_WARP;
    const LsKernelThread *t = ls_kernel_lane(warp, lane);
    if (!(t->mask >> lane & 1))
        ls_kernel_fault(thread, "names lanes 0x%08x in %s:%d and is not one of them", t->mask, t->site.file,
            t->site.line);
    if (t->width < 1 || t->width > LS_WARP || (t->width & (t->width - 1)))
        ls_kernel_fault(thread, "shuffles over a width of %d in %s:%d; it must be a power of two up to 32",
            t->width, t->site.file, t->site.line);
    ls_kernel_warp(warp)->waiting |= 1u << lane;
    try_complete(warp, lane);
}

void ls_warp_lane_ended(unsigned warp)
{
    unsigned int waiting = ls_kernel_warp(warp)->waiting;
    for (unsigned lane = 0; lane < LS_WARP; lane++)
        if ((waiting >> lane & 1) && (ls_kernel_warp(warp)->waiting >> lane & 1))
            try_complete(warp, lane);
}

void ls_emulator_copy_lanes(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}
