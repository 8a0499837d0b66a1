// lockstep bench scaling --predict
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "bench_predict.h"
#include "predict/links.h"

enum { NODE_COUNTS_MAX = 64, NODES_MAX = 65536, RANKS_MAX = 1 << 20 };
static const double HOUR = 3600;

typedef struct Arguments {
    bool predict, gather_overlaps;
    const char *config, *nodes, *inside, *between, *stragglers, *json;
    LsTextList settings, measured;
    int64_t parameters, ranks_per_node, timeline;
    int algorithm; // LS_ALGORITHMS: all
    double overlap, mtbf, save, restart, interval, price[2], preemptions;
    LsPredictModel model;
} Arguments;

typedef struct Sweep {
    size_t counts;
    uint32_t nodes[NODE_COUNTS_MAX];
    LsCluster cluster;
    LsWorkBucket *bucket;
    LsPrediction *prediction;
    LsPredictReport report;
} Sweep;

static const char *const algorithm_choices[LS_ALGORITHMS + 2] = {
    "ring", "tree", "hierarchical", "exact", "all"};

// ---- Arguments ------------------------------------------------------------------------------------------

static LsStatus read_arguments(LsInvocation *invocation, Arguments *a)
{
    LsPredictModel *m = &a->model;
    const LsFlag flags[] = {
        {"predict", 0, LS_FLAG_SWITCH, &a->predict, NULL, "This command.", 0, NULL},
        {"config", 'c', LS_FLAG_TEXT, &a->config, "FILE", "What is trained.", 0, NULL},
        {"set", 0, LS_FLAG_LIST, &a->settings, "A.B=V", "Sets one option; may be repeated.", 0, NULL},
        {"parameters", 0, LS_FLAG_COUNT, &a->parameters, "N", "A model of so many parameters, instead of -c.",
            1, NULL},
        {"measured", 0, LS_FLAG_LIST, &a->measured, "REPORT",
            "A JSON report of bench step (one rank), reduce_scatter or all_gather (ranks of one host: "
            "inside; "
            "one on each host: between), instead of assumptions; may be repeated.",
            0, NULL},
        {"sample-seconds", 0, LS_FLAG_REAL, &m->sample_seconds, "S",
            "Forward and backward of one sample on one rank, in seconds.", 0, NULL},
        {"forward-share", 0, LS_FLAG_REAL, &m->forward_share, "F", "Part of it that is forward (1/3).", 0,
            NULL},
        {"optimizer-seconds", 0, LS_FLAG_REAL, &m->optimizer, "S",
            "The optimizer's pass over the whole model on one rank (0).", 0, NULL},
        {"samples", 0, LS_FLAG_COUNT, &m->samples, "N",
            "Samples of a step: of each rank (by default train.batch divided by the ranks of the first "
            "number of "
            "nodes), with --strong of all ranks (train.batch).",
            1, NULL},
        {"strong", 0, LS_FLAG_SWITCH, &m->strong, NULL,
            "The global batch is the same for all numbers of nodes, else a rank's part of it.", 0, NULL},
        {"nodes", 0, LS_FLAG_TEXT, &a->nodes, "LIST", "Numbers of nodes (8,16,32,…,4096).", 0, NULL},
        {"ranks-per-node", 0, LS_FLAG_COUNT, &a->ranks_per_node, "N", "Ranks, or GPUs, of each node (8).", 1,
            NULL},
        {"algorithm", 0, LS_FLAG_CHOICE, &a->algorithm, "NAME",
            "ring, tree, hierarchical, exact (the lane plan) or all (default).", 0, algorithm_choices},
        {"inside", 0, LS_FLAG_TEXT, &a->inside, "LINK",
            "Link between the ranks of a node (nvlink4): a preset (nvlink3 to 5, pcie3 to 5) or "
            "GBITS[:LATENCY_US[:MESSAGE_US]].",
            0, NULL},
        {"between", 0, LS_FLAG_TEXT, &a->between, "LINK",
            "Link of each node to the others (infiniband-400): ethernet-R or infiniband-R with R from 25 to "
            "3200 "
            "Gbit/s, or figures.",
            0, NULL},
        {"overlap", 0, LS_FLAG_REAL, &a->overlap, "F",
            "How fast computing goes on during communication: 1 (default) undisturbed, 0 not at all.", 0,
            NULL},
        {"gather-overlaps", 0, LS_FLAG_SWITCH, &a->gather_overlaps, NULL,
            "Weights are gathered during the next forward.", 0, NULL},
        {"gradient-bytes", 0, LS_FLAG_REAL, &m->gradient_bytes, "N",
            "Bytes of a gradient on the wire (4; 2 with collectives.wire bf16).", 1, NULL},
        {"weight-bytes", 0, LS_FLAG_REAL, &m->weight_bytes, "N",
            "Bytes of a weight that is gathered (2; 4 with runtime.precision fp32).", 1, NULL},
        {"stragglers", 0, LS_FLAG_TEXT, &a->stragglers, "SPREAD",
            "How ranks differ: none (default), normal:S, lognormal:S (standard deviation), exponential:S "
            "(mean "
            "delay), of the time they compute.",
            0, NULL},
        {"mtbf", 0, LS_FLAG_REAL, &a->mtbf, "HOURS", "Mean time between failures of one node (0: none).", 0,
            NULL},
        {"save", 0, LS_FLAG_REAL, &a->save, "S", "Seconds that a checkpoint holds up training (0).", 0, NULL},
        {"restart", 0, LS_FLAG_REAL, &a->restart, "S", "Seconds from a failure to training again (60).", 0,
            NULL},
        {"interval", 0, LS_FLAG_REAL, &a->interval, "S", "Seconds between checkpoints (the best).", 0, NULL},
        {"on-demand", 0, LS_FLAG_REAL, &a->price[0], "PRICE", "Of a node and hour.", 0, NULL},
        {"spot", 0, LS_FLAG_REAL, &a->price[1], "PRICE", "Of a spot node and hour.", 0, NULL},
        {"preemptions", 0, LS_FLAG_REAL, &a->preemptions, "N",
            "How often in an hour a spot node is called back, with notice (0).", 0, NULL},
        {"epoch", 0, LS_FLAG_REAL, &m->epoch_samples, "N", "Samples of an epoch (the data set's).", 0, NULL},
        {"timeline", 0, LS_FLAG_COUNT, &a->timeline, "NODES", "Prints the time-line of that many nodes too.",
            1, NULL},
        {"json", 0, LS_FLAG_TEXT, &a->json, "FILE", "Writes everything as JSON.", 0, NULL},
    };
    return ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 0, 0);
}

static LsStatus check_arguments(const Arguments *a)
{
    if (a->config && a->parameters > 0)
        return LS_FAIL(LS_USAGE, "-c and --parameters both say what the model is: give one of them");
    if (!(a->model.sample_seconds > 0))
        return LS_FAIL(LS_USAGE,
            "--sample-seconds is missing: how long a rank computes a sample; or give --measured "
            "with a report of lockstep bench step");
    if (a->overlap > 1)
        return LS_FAIL(LS_USAGE, "--overlap %g: expected 0 to 1", a->overlap);
    if (a->model.forward_share > 1)
        return LS_FAIL(LS_USAGE, "--forward-share %g: expected 0 to 1", a->model.forward_share);
    return LS_OK;
}

static LsStatus read_nodes(const char *list, int64_t ranks_per_node, Sweep *sweep)
{
    for (const char *text = list;; text++) {
        char *end;
        long long nodes = strtoll(text, &end, 10);
        if (end == text || nodes < 1 || nodes > NODES_MAX || (*end != ',' && *end != '\0'))
            return LS_FAIL(LS_USAGE, "--nodes %s: expected numbers from 1 to %d with commas between them",
                list, NODES_MAX);
        if (sweep->counts == NODE_COUNTS_MAX)
            return LS_FAIL(LS_USAGE, "--nodes: more than %d numbers", NODE_COUNTS_MAX);
        if (nodes * ranks_per_node > RANKS_MAX)
            return LS_FAIL(LS_USAGE, "%lld nodes of %lld ranks are more than %d ranks", nodes,
                (long long)ranks_per_node, RANKS_MAX);
        sweep->nodes[sweep->counts++] = (uint32_t)nodes;
        text = end;
        if (*end == '\0')
            return LS_OK;
    }
}

static LsStatus read_links(const Arguments *a, LsCluster *cluster)
{
    LS_TRY(ls_link_read(a->inside, &cluster->inside.reduce));
    LS_TRY(ls_link_read(a->between, &cluster->between.reduce));
    cluster->inside.gather = cluster->inside.reduce;
    cluster->between.gather = cluster->between.reduce;
    return LS_OK;
}

// ---- The sweep ------------------------------------------------------------------------------------------

// Seconds of a step of one rank that is alone with what each rank computes (weak) or all compute (strong),
// per sample.
static LsStatus time_alone(const Arguments *a, Sweep *sweep, double *seconds)
{
    LsWork work;
    double samples;
    LsTimeline alone;
    LsCluster cluster = sweep->cluster;
    cluster.nodes = cluster.ranks_per_node = 1;
    LS_TRY(ls_predict_model_work(&a->model, 1, 1, false, sweep->bucket, &work, &samples));
    LS_TRY(ls_predict_step(&work, &cluster, LS_RING, 1, &alone));
    *seconds = alone.step / samples;
    ls_timeline_free(&alone);
    return LS_OK;
}

static void add_costs(const Sweep *sweep, LsPrediction *p)
{
    const LsPredictReport *report = &sweep->report;
    const double share[2] = {p->goodput.on_demand, p->goodput.spot};
    for (int i = 0; i < 2; i++) {
        p->epoch_hours[i] = report->model->epoch_samples / (p->rate * share[i]) / HOUR;
        p->epoch_cost[i] = p->epoch_hours[i] * p->nodes * report->price[i];
    }
}

static LsStatus predict(const Arguments *a, Sweep *sweep, double alone, LsPrediction *p)
{
    LsWork work;
    double samples;
    LsCluster cluster = sweep->cluster;
    cluster.nodes = p->nodes;
    p->ranks = p->nodes * cluster.ranks_per_node;
    p->slowdown = ls_jitter_slowest(sweep->report.jitter, p->ranks);
    LsStatus status = ls_predict_model_work(
        &a->model, p->ranks, a->overlap, a->gather_overlaps, sweep->bucket, &work, &samples);
    if (status == LS_OK)
        status = ls_predict_step(&work, &cluster, p->algorithm, p->slowdown, &p->timeline);
    if (status == LS_CONFIG) { // more ranks than lanes
        snprintf(p->impossible, sizeof p->impossible, "%s", ls_status_message());
        return LS_OK;
    }
    LS_TRY(status);
    p->lanes = work.lanes;
    p->exchange_bytes = work.exchange_bytes;
    p->rate = samples / p->timeline.step;
    p->efficiency = p->rate * alone / p->ranks;
    p->goodput = ls_goodput(&sweep->report.risk, p->nodes);
    add_costs(sweep, p);
    return LS_OK;
}

static LsStatus predict_all(const Arguments *a, Sweep *sweep)
{
    double alone;
    bool all = a->algorithm == LS_ALGORITHMS;
    size_t most = sweep->counts * LS_ALGORITHMS;
    LS_TRY(ls_memory_allocate(a->model.buckets.count * sizeof *sweep->bucket, (void **)&sweep->bucket));
    LS_TRY(ls_memory_allocate(most * sizeof *sweep->prediction, (void **)&sweep->prediction));
    LS_TRY(time_alone(a, sweep, &alone));
    for (size_t i = 0; i < sweep->counts; i++)
        for (int algorithm = 0; algorithm < LS_ALGORITHMS; algorithm++) {
            if (!all && algorithm != a->algorithm)
                continue;
            LsPrediction *p = &sweep->prediction[sweep->report.count++];
            p->nodes = sweep->nodes[i];
            p->algorithm = (LsAlgorithm)algorithm;
            LS_TRY(predict(a, sweep, alone, p));
        }
    sweep->report.prediction = sweep->prediction;
    return LS_OK;
}

static LsStatus set_up(Arguments *a, Sweep *sweep)
{
    sweep->cluster = (LsCluster){.ranks_per_node = (uint32_t)a->ranks_per_node};
    LS_TRY(read_links(a, &sweep->cluster));
    LS_TRY(ls_predict_read_measured(&a->measured, &a->model, &sweep->cluster));
    if (a->model.forward_share == 0)
        a->model.forward_share = 1.0 / 3; // backward has twice as many products
    LS_TRY(check_arguments(a));
    LS_TRY(read_nodes(a->nodes, a->ranks_per_node, sweep));
    LS_TRY(ls_jitter_read(a->stragglers, &sweep->report.jitter));
    a->model.base_ranks = sweep->nodes[0] * a->ranks_per_node;
    LS_TRY(ls_predict_model_open(a->config, &a->settings, a->parameters, &a->model));
    LsPredictReport *report = &sweep->report;
    report->model = &a->model;
    report->cluster = &sweep->cluster;
    report->overlap = a->overlap;
    report->gather_overlaps = a->gather_overlaps;
    report->timeline = a->timeline;
    report->price[0] = a->price[0];
    report->price[1] = a->price[1];
    report->risk = (LsRisk){
        .node_failures = a->mtbf > 0 ? 1 / (a->mtbf * HOUR) : 0,
        .preemptions = a->preemptions / HOUR,
        .save = a->save,
        .restart = a->restart,
        .interval = a->interval,
    };
    return LS_OK;
}

static LsStatus answer(const Arguments *a, Sweep *sweep)
{
    LS_TRY(predict_all(a, sweep));
    ls_predict_print(&sweep->report, stdout);
    return a->json ? ls_predict_write(&sweep->report, a->json) : LS_OK;
}

static LsStatus run(LsInvocation *invocation)
{
    Sweep sweep = {0};
    Arguments a = {
        .nodes = "8,16,32,64,128,256,512,1024,2048,4096",
        .inside = "nvlink4",
        .between = "infiniband-400",
        .stragglers = "none",
        .ranks_per_node = 8,
        .algorithm = LS_ALGORITHMS,
        .overlap = 1,
        .restart = 60,
    };
    LsStatus status = read_arguments(invocation, &a);
    if (invocation->helped)
        return LS_OK;
    if (status == LS_OK)
        status = set_up(&a, &sweep);
    if (status == LS_OK)
        status = answer(&a, &sweep);
    for (size_t i = 0; i < sweep.report.count; i++)
        ls_timeline_free(&sweep.prediction[i].timeline);
    free(sweep.prediction);
    free(sweep.bucket);
    ls_predict_model_free(&a.model);
    return status;
}

const LsCommand ls_command_bench_predict = {
    .name = "bench scaling --predict",
    .arguments = "-c FILE | --parameters N [--sample-seconds S] [options]",
    .summary = "predicts steps, goodput and cost on clusters that are not here",
    .about =
        "Models bucketed training, communication overlapped with backward, on links with latency and "
        "bandwidth.\n"
        "Prints for each number of nodes and each algorithm the step, its exposed communication, the ranks'\n"
        "efficiency compared with one rank alone, and what failures and prices make of it. docs/scaling.md "
        "says\n"
        "how to read that, what was compared with simulations and real runs, and what was not.",
    .run = run,
};
