// What happens to a predicted step on a real cluster: ranks that are slower than others, failures, and what
// an epoch costs then.
#ifndef LOCKSTEP_PREDICT_RISK_H
#define LOCKSTEP_PREDICT_RISK_H

#include <stdint.h>

#include "base/status.h"

// How a rank's time to compute a step differs from the mean, independently for each rank and step.
typedef enum LsJitterKind {
    LS_JITTER_NONE,
    LS_JITTER_NORMAL,      // mean 1, standard deviation `size`
    LS_JITTER_LOGNORMAL,   // mean 1, standard deviation `size`
    LS_JITTER_EXPONENTIAL, // 1 and a delay that is exponentially distributed with mean `size`
} LsJitterKind;

typedef struct LsJitter {
    LsJitterKind kind;
    double size;
} LsJitter;

// Reads "none", "normal:0.03", "lognormal:0.05" or "exponential:0.02". LS_USAGE names what it is not.
LsStatus ls_jitter_read(const char *text, LsJitter *out);

// The mean of the slowest of `ranks` such times, as a multiple of 1: the expected largest order statistic,
// ∫ (1 - F(x)^ranks) dx.
double ls_jitter_slowest(LsJitter jitter, uint64_t ranks);

// Failures come at random (exponentially distributed times); every one costs what was computed since the last
// checkpoint and a restart, during which the next may come.
typedef struct LsRisk {
    double node_failures; // of one node, in 1/s
    double preemptions;   // of one spot node, in 1/s: told in time, so they cost a checkpoint and a restart
    double save, restart; // seconds of training that a checkpoint holds up, and that a restart takes
    double interval;      // seconds of training between checkpoints; 0: the best
} LsRisk;

typedef struct LsGoodput {
    double interval;        // seconds between checkpoints; infinite where nothing fails
    double on_demand, spot; // the share of the nodes' time that trains, 0 … 1
} LsGoodput;

// Where interval is 0 it is Daly's ("A higher order estimate of the optimum checkpoint interval for restart
// dumps", 2006), which is Young's √(2 · save · mtbf) where saves are short. The share is Daly's complete
// model's, exact for exponentially distributed failures:
//   interval / (mtbf · e^(restart/mtbf) · (e^((interval + save)/mtbf) - 1))
LsGoodput ls_goodput(const LsRisk *risk, uint32_t nodes);

#endif
