// Plans for many ranks: what they compute, how many messages and bytes they need, for up to 4,096 lanes and
// ranks. A serial interpreter runs the plans of all ranks on symbols, over a window of the pieces.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/plan.h"

enum { WINDOW = 8 }; // pieces

// ---- Symbols: a sum is a 64-bit hash of its tree, 0 is "nothing" -----------------------------------------

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t plus(uint64_t left, uint64_t right)
{
    return mix(left * 3 + mix(right) + 0x9e3779b97f4a7c15u);
}

static uint64_t node(uint32_t first, uint32_t count)
{
    return count == 1 ? mix(first + 1) : plus(node(first, count / 2), node(first + count / 2, count / 2));
}

// ---- The interpreter ------------------------------------------------------------------------------------

typedef struct Message {
    uint32_t from, to, order; // order: in the plan of the rank that lists it
    uint32_t slot, first, pieces;
} Message;

typedef struct Machine {
    uint32_t ranks, window; // first piece that is followed
    LsPlan *plan;
    uint64_t **symbol; // [ranks][slots × WINDOW]
} Machine;

static uint64_t *at(Machine *m, uint32_t rank, uint32_t slot, uint32_t piece)
{
    assert_true(slot < m->plan[rank].slots);
    return &m->symbol[rank][(size_t)slot * WINDOW + piece - m->window];
}

static int compare_messages(const void *a, const void *b)
{
    const Message *x = a, *y = b;
    if (x->to != y->to)
        return x->to < y->to ? -1 : 1;
    if (x->from != y->from)
        return x->from < y->from ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

// All messages of a kind in a phase, sorted by receiver, sender and the order in which they are listed.
static Message *list_messages(const Machine *m, size_t phase, LsTransferKind kind, size_t *count)
{
    size_t room = 0;
    for (uint32_t r = 0; r < m->ranks; r++)
        room += m->plan[r].phase[phase].transfers;
    Message *list = calloc(room + 1, sizeof *list);
    assert_non_null(list);
    *count = 0;
    for (uint32_t r = 0; r < m->ranks; r++) {
        LsPlanPhase p = m->plan[r].phase[phase];
        for (size_t i = 0; i < p.transfers; i++) {
            LsTransfer t = m->plan[r].transfer[p.first_transfer + i];
            assert_true(t.peer < m->ranks && t.peer != r && t.pieces > 0);
            if (t.kind == kind)
                list[(*count)++] = (Message){kind == LS_SEND ? r : t.peer, kind == LS_SEND ? t.peer : r,
                    (uint32_t)i, t.slot, t.first_piece, t.pieces};
        }
    }
    qsort(list, *count, sizeof *list, compare_messages);
    return list;
}

static bool in_window(const Machine *m, uint32_t piece)
{
    return piece >= m->window && piece < m->window + WINDOW;
}

// All that is sent is read before anything is received.
static void run_transfers(Machine *m, size_t phase)
{
    size_t sends, receives;
    Message *send = list_messages(m, phase, LS_SEND, &sends);
    Message *receive = list_messages(m, phase, LS_RECEIVE, &receives);
    uint64_t(*value)[WINDOW] = calloc(sends + 1, sizeof *value);
    assert_non_null(value);
    assert_int_equal(sends, receives);
    for (size_t i = 0; i < sends; i++) {
        assert_int_equal(send[i].from, receive[i].from);
        assert_int_equal(send[i].to, receive[i].to);
        assert_int_equal(send[i].first, receive[i].first);
        assert_int_equal(send[i].pieces, receive[i].pieces);
        for (uint32_t p = send[i].first; p < send[i].first + send[i].pieces; p++)
            if (in_window(m, p)) {
                value[i][p - m->window] = *at(m, send[i].from, send[i].slot, p);
                assert_true(value[i][p - m->window] != 0);
            }
    }
    for (size_t i = 0; i < receives; i++)
        for (uint32_t p = receive[i].first; p < receive[i].first + receive[i].pieces; p++)
            if (in_window(m, p)) {
                uint64_t *place = at(m, receive[i].to, receive[i].slot, p);
                assert_true(*place == 0); // nothing live is overwritten
                *place = value[i][p - m->window];
            }
    free(value);
    free(receive);
    free(send);
}

static void run_adds(Machine *m, uint32_t rank, size_t phase)
{
    const LsPlan *plan = &m->plan[rank];
    for (size_t i = 0; i < plan->phase[phase].adds; i++) {
        LsPlanAdd a = plan->add[plan->phase[phase].first_add + i];
        for (uint32_t p = a.first_piece; p < a.first_piece + a.pieces; p++) {
            if (!in_window(m, p))
                continue;
            uint64_t *into = at(m, rank, a.into, p), *from = at(m, rank, a.from, p);
            assert_true(*into != 0 && *from != 0 && into != from);
            *into = plus(*into, *from);
            *from = 0;
        }
    }
}

static void fill_subtrees(Machine *m)
{
    for (uint32_t r = 0; r < m->ranks; r++) {
        const LsLaneShare *share = &m->plan[r].share;
        m->symbol[r] = calloc((size_t)m->plan[r].slots * WINDOW, sizeof(uint64_t));
        assert_non_null(m->symbol[r]);
        for (uint32_t s = 0; s < share->subtrees; s++) {
            uint64_t sum = node(share->subtree[s].first, share->subtree[s].count);
            for (size_t p = 0; p < WINDOW; p++)
                m->symbol[r][s * WINDOW + p] = sum;
        }
    }
}

static void check_window(Machine *m, uint32_t window)
{
    m->window = window;
    fill_subtrees(m);
    for (size_t phase = 0; phase < m->plan[0].phases; phase++) {
        run_transfers(m, phase);
        for (uint32_t r = 0; r < m->ranks; r++)
            run_adds(m, r, phase);
    }
    uint64_t tree = node(0, m->plan[0].lanes);
    for (uint32_t r = window; r < window + WINDOW && r < m->ranks; r++)
        assert_true(*at(m, r, m->plan[r].result_slot, r) == tree);
    for (uint32_t r = 0; r < m->ranks; r++)
        free(m->symbol[r]);
}

// ---- What plans need ------------------------------------------------------------------------------------

typedef LsStatus (*Compile)(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *out);

typedef struct Needs {
    size_t phases, messages, staging; // of the busiest rank; staging in pieces
    double ratio;
} Needs;

static Needs needs_of(const Machine *m)
{
    Needs most = {.phases = m->plan[0].phases};
    for (uint32_t r = 0; r < m->ranks; r++) {
        const LsPlan *plan = &m->plan[r];
        size_t messages = ls_plan_messages(plan), staging = 0;
        double ratio = ls_plan_send_ratio(plan);
        for (uint32_t s = 0; s < plan->slots - plan->lane_slots; s++)
            staging += plan->staging[s].count;
        assert_int_equal(plan->phases, most.phases);
        most.messages = messages > most.messages ? messages : most.messages;
        most.staging = staging > most.staging ? staging : most.staging;
        most.ratio = ratio > most.ratio ? ratio : most.ratio;
    }
    return most;
}

static Needs examine(Compile compile, uint32_t lanes, uint32_t ranks)
{
    Machine m = {.ranks = ranks};
    m.plan = calloc(ranks, sizeof *m.plan);
    m.symbol = calloc(ranks, sizeof *m.symbol);
    assert_true(m.plan && m.symbol);
    for (uint32_t r = 0; r < ranks; r++)
        assert_int_equal(compile(lanes, ranks, r, &m.plan[r]), LS_OK);
    check_window(&m, 0);
    if (ranks > WINDOW)
        check_window(&m, ranks - WINDOW - ranks / 3);
    Needs needs = needs_of(&m);
    for (uint32_t r = 0; r < ranks; r++)
        ls_plan_free(&m.plan[r]);
    free(m.symbol);
    free(m.plan);
    return needs;
}

static uint32_t log2_up(uint32_t n)
{
    uint32_t log = 0;
    while (1u << log < n)
        log++;
    return log;
}

static void test_powers_of_two(void **state)
{
    (void)state;
    static const uint32_t some[] = {2, 4, 16, 64, 256, 4096};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        uint32_t ranks = some[i], lanes = ranks < 1024 ? 4 * ranks : ranks, log = log2_up(ranks);
        Needs needs = examine(ls_plan_compile_halving, lanes, ranks);
        assert_int_equal(needs.phases, log);
        assert_true(needs.messages <= log + 1);
        assert_true(needs.ratio <= ranks / (ranks - 1.0) + 1e-9);
        assert_true(needs.staging <= ranks); // one model
    }
}

// The limits are what the header promises; ranks have up to three subtrees, of which the direct exchange
// sends each to every owner.
static void test_any_number_of_ranks(void **state)
{
    (void)state;
    static const uint32_t some[] = {3, 5, 33, 100, 129, 255, 1000};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        uint32_t ranks = some[i];
        Needs needs = examine(ls_plan_compile_halving, LS_LANES_MAX, ranks);
        print_message(
            "L = %u, W = %u: %zu phases, %zu messages, %.2f of a ring's bytes, staging %.2f models\n",
            LS_LANES_MAX, ranks, needs.phases, needs.messages, needs.ratio, (double)needs.staging / ranks);
        assert_true(needs.messages <= 3 * log2_up(ranks));
        assert_true(needs.ratio <= 3.5);
        assert_true(needs.staging <= 3.5 * ranks);
    }
}

static void test_direct_exchange(void **state)
{
    (void)state;
    static const uint32_t some[] = {100, 256};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        Needs needs = examine(ls_plan_compile, LS_LANES_MAX, some[i]);
        assert_int_equal(needs.phases, 1);
        assert_true(needs.messages <= LS_SUBTREES_MAX * (some[i] - 1));
        assert_true(needs.ratio <= LS_SUBTREES_MAX);
    }
}

static uint32_t host_size; // ranks of a host, the last one has what is left

static LsStatus compile_hosts(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *out)
{
    LsHostMap hosts = {.first = calloc(ranks + 1, sizeof *hosts.first)};
    assert_non_null(hosts.first);
    for (uint32_t r = 0; r < ranks; r += host_size)
        hosts.first[hosts.count++] = r;
    hosts.first[hosts.count] = ranks;
    LsStatus status = ls_plan_compile_hosts(lanes, ranks, rank, &hosts, out);
    free(hosts.first);
    return status;
}

static void test_two_levels(void **state)
{
    (void)state;
    static const uint32_t some[][2] = {{64, 8}, {100, 7}, {256, 64}, {256, 8}, {1000, 100}, {1024, 128}};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        uint32_t ranks = some[i][0];
        host_size = some[i][1];
        Needs needs = examine(compile_hosts, LS_LANES_MAX, ranks);
        print_message(
            "L = %u, W = %u, hosts of %u: %zu messages, %.2f of a ring's bytes, staging %.2f models\n",
            LS_LANES_MAX, ranks, host_size, needs.messages, needs.ratio, (double)needs.staging / ranks);
        assert_int_equal(needs.phases, 2);
        if ((ranks & (ranks - 1)) == 0 && (host_size & (host_size - 1)) == 0) {
            assert_true(needs.ratio == 1.0);
            assert_int_equal(needs.staging, ranks - 1);
            assert_true(needs.messages <= 3 * (host_size - 1) + ranks / host_size - 1);
        }
        assert_true(needs.ratio <= 2 * LS_SUBTREES_MAX && needs.staging <= 2 * LS_SUBTREES_MAX * ranks);
    }
}

static void test_choice(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= 64; ranks++) {
        LsPlan plan;
        assert_int_equal(ls_plan_choose(64, ranks, ranks - 1, &plan), LS_OK);
        assert_int_equal(plan.phases > 1, ranks > LS_DIRECT_RANKS_MAX);
        ls_plan_free(&plan);
    }
}

// ---- Rounds ---------------------------------------------------------------------------------------------

// The owners' partial sums after each round are those of the tree's largest nodes over the lanes so far; what
// every owner ends with is the tree. All owners do the same, so one rank's slots tell.
static void check_rounds(uint32_t lanes, uint32_t ranks, uint32_t rank)
{
    LsPlan plan;
    LsRounds rounds;
    assert_int_equal(ls_rounds_compile(lanes, ranks, rank, &plan, &rounds), LS_OK);
    uint64_t *slot = calloc(rounds.first_sum + rounds.sums, sizeof *slot);
    assert_non_null(slot);
    assert_int_equal(rounds.rounds, (lanes + ranks - 1) / ranks);
    for (uint32_t i = 0; i < rounds.rounds; i++) {
        const LsPlan *round = &rounds.round[i];
        memset(slot, 0, rounds.first_sum * sizeof *slot); // of another lane now
        bool mine = i < plan.lane_steps;
        if (mine)
            assert_int_equal(plan.lane_step[i].lane, i * ranks + rank);
        slot[0] = mine ? node(i * ranks + rank, 1) : 0;
        size_t sends = 0;
        for (size_t t = 0; t < round->transfers; t++) {
            LsTransfer transfer = round->transfer[t];
            sends += transfer.kind == LS_SEND;
            assert_int_equal(transfer.first_piece, transfer.kind == LS_SEND ? transfer.peer : rank);
            if (transfer.kind == LS_RECEIVE) {
                assert_true(slot[transfer.slot] == 0 && transfer.slot < rounds.first_sum);
                slot[transfer.slot] = node(i * ranks + transfer.peer, 1);
            }
        }
        assert_int_equal(sends, mine ? ranks - 1 : 0);
        for (size_t a = 0; a < round->adds; a++) {
            uint64_t *into = &slot[round->add[a].into], *from = &slot[round->add[a].from];
            assert_true(*into != 0 && *from != 0 && into != from);
            *into = plus(*into, *from);
            *from = 0;
        }
        for (size_t m = 0; m < rounds.moves[i]; m++) {
            LsPlanMove move = rounds.move[i][m];
            assert_true(slot[move.to] == 0 && slot[move.from] != 0 && move.to >= rounds.first_sum);
            slot[move.to] = slot[move.from];
            slot[move.from] = 0;
        }
    }
    assert_true(slot[rounds.first_sum] == node(0, lanes));
    assert_true(rounds.sums <= log2_up(lanes) + 1);
    free(slot);
    ls_rounds_free(&rounds);
    ls_plan_free(&plan);
}

static void test_rounds_compute_the_tree(void **state)
{
    (void)state;
    for (uint32_t lanes = 1; lanes <= 32; lanes *= 2)
        for (uint32_t ranks = 1; ranks <= lanes; ranks++)
            for (uint32_t rank = 0; rank < ranks; rank++)
                check_rounds(lanes, ranks, rank);
    static const uint32_t some[] = {1, 3, 100, 1000, 4096};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        check_rounds(LS_LANES_MAX, some[i], some[i] / 2);
}

static void test_rounds_need_few_sums(void **state)
{
    (void)state;
    LsPlan plan;
    LsRounds rounds;
    static const uint32_t expected[][3] = {{8, 8, 1}, {8, 4, 1}, {8, 2, 2}, {8, 1, 3}, {64, 4, 4}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_int_equal(ls_rounds_compile(expected[i][0], expected[i][1], 0, &plan, &rounds), LS_OK);
        assert_int_equal(rounds.sums, expected[i][2]);
        ls_rounds_free(&rounds);
        ls_plan_free(&plan);
    }
    assert_int_equal(ls_rounds_compile(8, 9, 0, &plan, &rounds), LS_CONFIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_powers_of_two),
        cmocka_unit_test(test_any_number_of_ranks),
        cmocka_unit_test(test_direct_exchange),
        cmocka_unit_test(test_two_levels),
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_rounds_compute_the_tree),
        cmocka_unit_test(test_rounds_need_few_sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
