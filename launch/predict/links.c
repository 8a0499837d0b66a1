#include "predict/links.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Bytes a second of one Gbit/s.
static const double GBIT = 1e9 / 8;

typedef struct Preset {
    const char *name;
    double gbits, latency, message; // microseconds
} Preset;

// What collectives reach of a GPU's line rate in one direction. Eight H100 reach 370 of NVLink 4's 450 GB/s
// in a ring; the other NVLinks are taken to reach the same share, PCIe's x16 four fifths.
static const Preset presets[] = {
    {"nvlink3", 1970, 3, 0.5},
    {"nvlink4", 2960, 3, 0.5},
    {"nvlink5", 5920, 3, 0.5},
    {"pcie3", 100, 5, 0.5},
    {"pcie4", 200, 5, 0.5},
    {"pcie5", 400, 5, 0.5},
};

// Networks are sold by their line rate: what of it carries data, and the way from memory to memory.
static const struct Network {
    const char *prefix;
    double share, latency, message; // microseconds
} networks[] = {
    {"ethernet-", 0.92, 20, 1},
    {"infiniband-", 0.95, 4, 0.5},
};
static const double slowest_network = 25, fastest_network = 3200;

static LsLink make_link(double gbits, double latency, double message)
{
    return (LsLink){.latency = latency * 1e-6, .message = message * 1e-6, .bandwidth = gbits * GBIT};
}

static LsStatus read_network(const struct Network *network, const char *text, LsLink *out)
{
    const char *rate = text + strlen(network->prefix);
    char *end;
    double gbits = strtod(rate, &end);
    if (end == rate || *end || !(gbits >= slowest_network && gbits <= fastest_network))
        return LS_FAIL(LS_USAGE, "%s: expected %sR with a line rate R from %.0f to %.0f Gbit/s", text,
            network->prefix, slowest_network, fastest_network);
    *out = make_link(gbits * network->share, network->latency, network->message);
    return LS_OK;
}

// GBITS[:LATENCY[:MESSAGE]]
static bool read_figures(const char *text, double figure[3])
{
    for (int i = 0; i < 3; i++) {
        char *end;
        figure[i] = strtod(text, &end);
        if (end == text || !isfinite(figure[i]) || figure[i] < 0)
            return false;
        if (*end == '\0')
            return figure[0] > 0;
        if (*end != ':')
            return false;
        text = end + 1;
    }
    return false;
}

LsStatus ls_link_read(const char *text, LsLink *out)
{
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (strcmp(presets[i].name, text) == 0) {
            *out = make_link(presets[i].gbits, presets[i].latency, presets[i].message);
            return LS_OK;
        }
    for (size_t i = 0; i < sizeof networks / sizeof *networks; i++)
        if (strncmp(networks[i].prefix, text, strlen(networks[i].prefix)) == 0)
            return read_network(&networks[i], text, out);
    double figure[3] = {0};
    if (!read_figures(text, figure))
        return LS_FAIL(LS_USAGE,
            "%s is no link: expected nvlink3 to 5, pcie3 to 5, ethernet-R, infiniband-R, or "
            "GBITS[:LATENCY_US[:MESSAGE_US]]",
            text);
    *out = make_link(figure[0], figure[1], figure[2]);
    return LS_OK;
}

void ls_link_print(const LsLink *link, char *text, size_t size)
{
    int used = snprintf(text, size, "%.4g Gbit/s, %.3g us", link->bandwidth / GBIT, link->latency * 1e6);
    if (link->message > 0 && used > 0 && (size_t)used < size)
        snprintf(text + used, size - (size_t)used, ", %.3g us a message", link->message * 1e6);
}

// Minimises the sum of ((a + b n - t) / t)².
LsStatus ls_link_fit(const double *bytes, const double *seconds, size_t count, LsLink *out)
{
    double w = 0, wn = 0, wnn = 0, wt = 0, wnt = 0, smallest = INFINITY;
    for (size_t i = 0; i < count; i++) {
        if (!(bytes[i] > 0) || !(seconds[i] > 0))
            return LS_FAIL(LS_BAD_DATA, "a message of %g bytes took %g s", bytes[i], seconds[i]);
        double weight = 1 / (seconds[i] * seconds[i]);
        w += weight;
        wn += weight * bytes[i];
        wnn += weight * bytes[i] * bytes[i];
        wt += weight * seconds[i];
        wnt += weight * bytes[i] * seconds[i];
        smallest = fmin(smallest, seconds[i]);
    }
    double determinant = w * wnn - wn * wn;
    if (count < 2 || !(determinant > 1e-12 * w * wnn))
        return LS_FAIL(LS_BAD_DATA, "the times of %zu sizes do not tell latency from bandwidth", count);
    double per_byte = (w * wnt - wn * wt) / determinant, latency = (wnn * wt - wn * wnt) / determinant;
    if (!(latency >= 0)) { // the smallest sizes are cheaper than a line would have them
        latency = 0;
        per_byte = wnt / wnn;
    }
    if (!(per_byte > 0))
        return LS_FAIL(LS_BAD_DATA, "larger messages took no longer than small ones (%g s)", smallest);
    *out = (LsLink){.latency = latency, .bandwidth = 1 / per_byte};
    return LS_OK;
}
