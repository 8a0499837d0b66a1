// Links by name, by their figures, or as measured.
#ifndef LOCKSTEP_PREDICT_LINKS_H
#define LOCKSTEP_PREDICT_LINKS_H

#include "predict/predict.h"

// Reads a preset (nvlink3, nvlink4, nvlink5, pcie3, pcie4, pcie5, ethernet-R, infiniband-R with R from 25 to
// 3200 Gbit/s) or figures: GBITS[:LATENCY[:MESSAGE]], the last two in microseconds. LS_USAGE names what it is
// not. Presets are starting values: what is usually reached of the line rate; see docs/scaling.md.
LsStatus ls_link_read(const char *text, LsLink *out);

// "368 Gbit/s, 5 us, 0.5 us a message".
void ls_link_print(const LsLink *link, char *text, size_t size);

// Fits latency and bandwidth to measured times of messages (least squares of the relative errors; two sizes
// or more). What a message costs its sender beside that is 0. LS_BAD_DATA: no such link has these times.
LsStatus ls_link_fit(const double *bytes, const double *seconds, size_t count, LsLink *out);

#endif
