// What the emulator asks of the address sanitizer, where the program has it. Private to the emulator.
#ifndef LOCKSTEP_EMULATOR_ADDRESS_SANITIZER_H
#define LOCKSTEP_EMULATOR_ADDRESS_SANITIZER_H

#if defined(LS_ADDRESS_SANITIZER)   // a file that is not instrumented in a program that is
#elif defined(__SANITIZE_ADDRESS__) // gcc
#define LS_ADDRESS_SANITIZER
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LS_ADDRESS_SANITIZER
#endif
#endif

#ifdef LS_ADDRESS_SANITIZER // the functions: the macros do nothing in a file that is not instrumented
#include <sanitizer/asan_interface.h>
#else
#include <stddef.h>

static inline void __asan_poison_memory_region(void const volatile *begin, size_t bytes)
{
    (void)begin, (void)bytes;
}

static inline void __asan_unpoison_memory_region(void const volatile *begin, size_t bytes)
{
    (void)begin, (void)bytes;
}

// The first poisoned byte of a range; NULL: none.
static inline void *__asan_region_is_poisoned(void *begin, size_t bytes)
{
    (void)begin, (void)bytes;
    return NULL;
}
#endif

#endif
