// Helper threads of a rank.
#ifndef LOCKSTEP_BASE_THREAD_H
#define LOCKSTEP_BASE_THREAD_H

// A rank is bound to a core, and its threads inherit that: the calling thread asks for every core instead, of
// which the kernel leaves those that the process may use. Where that is not allowed it stays where it is.
void ls_thread_unbind(void);

#endif
