// CUDA kernels of language models, called directly with what the list of op cases is too small for: rows that
// no block of threads keeps in registers, many rows of one token, large vocabularies.
#include "kernel_arrays.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- Layer normalisation --------------------------------------------------------------------------------

typedef struct Norm {
    size_t rows, columns;
    LsDtype type;
    bool branch, accumulate;
    Array *x, *other, *weight, *bias, *y, *mean, *rstd; // other: the branch, then the residual
    Array *dy, *dweight, *dbias, *scratch;
} Norm;

static void require_forward(Norm *norm)
{
    LsLayerNorm args = {norm->rows, norm->columns, norm->x->device, norm->branch ? norm->other->device : NULL,
        norm->x->device, norm->weight->device, norm->bias->device, norm->y->device, norm->mean->device,
        norm->rstd->device, norm->type};
    REQUIRE(ls_kernel_layer_norm(0, &args));
    args.x = args.sum = norm->x->host;
    args.branch = norm->branch ? norm->other->host : NULL;
    args.weight = norm->weight->host, args.bias = norm->bias->host, args.y = norm->y->host;
    args.mean = norm->mean->host, args.rstd = norm->rstd->host;
    require_ref(ls_ref_layer_norm(NULL, &args));
    expect_bits("sum", norm->x); // one addition, rounded
    fetch(norm->y), fetch(norm->mean), fetch(norm->rstd);
    // Numbers are below 8, and so are sums of them over their count; each of `columns` additions in F32 may
    // be wrong by half a unit of 2^-23.
    double error = 8 * (double)(norm->columns + 16) * 0x1p-24;
    for (size_t r = 0; r < norm->rows; r++) {
        double rstd = host_number(norm->rstd, r);
        expect_near("mean", result_number(norm->mean, r), host_number(norm->mean, r), error);
        // An error of all distances from the mean changes the variance by as much of the largest distance.
        expect_near("rstd", result_number(norm->rstd, r), rstd, rstd * rstd * error);
        for (size_t c = 0; c < norm->columns; c++) {
            double y = host_number(norm->y, r * norm->columns + c);
            // Distances are at most 16, weights 4: through rstd and through the mean.
            double allowed = 4 * (16 * rstd * rstd * error + rstd * error) + 4 * 0x1p-22;
            expect_near("y", result_number(norm->y, r * norm->columns + c), y,
                allowed + 2.01 * rounding(norm->type, y) + 1e-6); // both were rounded
        }
    }
}

static void require_backward(Norm *norm)
{
    LsLayerNormBackward args = {norm->rows, norm->columns, norm->x->device, norm->dy->device,
        norm->weight->device, norm->mean->device, norm->rstd->device,
        norm->branch ? norm->other->device : NULL, norm->branch ? norm->other->device : norm->y->device,
        norm->type, norm->dweight->device, norm->dbias->device, norm->accumulate, norm->scratch->device};
    // The same statistics for both: what is compared is this pass.
    memcpy(norm->mean->host, norm->mean->result, norm->mean->bytes);
    memcpy(norm->rstd->host, norm->rstd->result, norm->rstd->bytes);
    REQUIRE(ls_kernel_layer_norm_backward(0, &args));
    Array *dx = norm->branch ? norm->other : norm->y;
    args.x = norm->x->host, args.dy = norm->dy->host, args.weight = norm->weight->host;
    args.mean = norm->mean->host, args.rstd = norm->rstd->host;
    args.residual = norm->branch ? norm->other->host : NULL, args.dx = dx->host;
    args.dweight = norm->dweight->host, args.dbias = norm->dbias->host, args.scratch = NULL;
    require_ref(ls_ref_layer_norm_backward(NULL, &args));
    fetch(dx), fetch(norm->dweight), fetch(norm->dbias), fetch(norm->scratch);
    // Terms of a row's sums are at most 4 · 4 · 16 rstd, and of a column's 4 · 16 rstd; rstd is below 1 here.
    double row_error = 512 * (double)(norm->columns + 16) * 0x1p-24;
    double column_error = 64 * (double)(norm->rows + 16) * (double)(norm->rows + 1) * 0x1p-24;
    for (size_t i = 0; i < norm->rows * norm->columns; i++)
        expect_near("dx", result_number(dx, i), host_number(dx, i),
            row_error + 2.01 * rounding(norm->type, host_number(dx, i)) + 1e-6);
    for (size_t c = 0; c < norm->columns; c++) {
        expect_near("dweight", result_number(norm->dweight, c), host_number(norm->dweight, c), column_error);
        expect_near("dbias", result_number(norm->dbias, c), host_number(norm->dbias, c), column_error);
    }
}

static void check_norm(size_t rows, size_t columns, LsDtype type, bool branch, bool moved)
{
    size_t n = rows * columns;
    Norm norm = {rows, columns, type, branch, draw(2), array_of(type, n), array_of(type, n),
        array_of(type, columns), array_of(type, columns), array_of(type, n), array_of(LS_F32, rows),
        array_of(LS_F32, rows), array_of(type, n), array_of(LS_F32, columns), array_of(LS_F32, columns),
        array_of(LS_F32, ls_layer_norm_scratch(rows, columns) / sizeof(float))};
    Array *all[] = {norm.x, norm.other, norm.weight, norm.bias, norm.y, norm.dy, norm.scratch};
    for (size_t i = 0; !moved && i < sizeof all / sizeof *all; i++)
        shift_array(all[i], 0);
    require_forward(&norm);
    require_backward(&norm);
    release_arrays(NULL);
}

// Every way of giving a row to threads: parts of a warp, a warp, a block that holds it, one that does not.
static void rows_of_any_length(void **unused)
{
    (void)unused;
    static const size_t columns[] = {8, 200, 264, 1024, 1032, 1600, 2048, 2056, 3000, 8192, 8200, 12296};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
        check_norm(1 + draw(5), columns[i], draw_type(), draw(2), false);
        check_norm(1 + draw(5), columns[i] - draw(8), draw_type(), draw(2), true);
    }
}

// Slices of more than one turn of their teams, with a rest.
static void rows_in_slices(void **unused)
{
    (void)unused;
    static const size_t shapes[][2] = {{700, 8}, {1030, 40}, {2100, 72}, {300, 264}, {1100, 257}, {61, 6152}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_norm(shapes[i][0], shapes[i][1], draw_type(), draw(2), i % 2);
}

// ---- Gradient of the table ------------------------------------------------------------------------------

typedef enum Mix { EVEN, SKEWED, RUNS, ONE, MIXES } Mix;

static int32_t draw_token(Mix mix, size_t row, size_t vocabulary)
{
    switch (mix) {
    case EVEN:
        return (int32_t)draw(vocabulary);
    case SKEWED: // every other row is of one of three
        return (int32_t)(draw(2) ? draw(vocabulary) : vocabulary - 1 - draw(vocabulary < 3 ? vocabulary : 3));
    case RUNS: // as many as a chunk has, so that tokens end where chunks end
        return (int32_t)(row / LS_EMBEDDING_CHUNK % vocabulary);
    default:
        return (int32_t)(vocabulary - 1);
    }
}

static void check_table(size_t rows, size_t columns, size_t vocabulary, Mix mix, bool moved)
{
    int32_t *tokens = allocate(rows * sizeof *tokens);
    void *on_device;
    Array *dy = array_of(draw_type(), rows * columns), *dtable = array_of(LS_F32, vocabulary * columns);
    Array *dpositions = array_of(LS_F32, columns);
    Array *scratch = array_of(LS_F32, ls_embedding_scratch(rows, vocabulary, columns) / sizeof(float));
    Array *all[] = {dy, dtable, scratch};
    for (size_t i = 0; !moved && i < sizeof all / sizeof *all; i++)
        shift_array(all[i], 0);
    for (size_t r = 0; r < rows; r++)
        tokens[r] = draw_token(mix, r, vocabulary);
    REQUIRE(cudaMalloc(&on_device, rows * sizeof *tokens));
    REQUIRE(cudaMemcpy(on_device, tokens, rows * sizeof *tokens, cudaMemcpyHostToDevice));
    LsEmbeddingGradient args = {rows, 1, columns, on_device, vocabulary, dy->device, dy->type, dtable->device,
        dpositions->device, true, scratch->device};
    REQUIRE(ls_kernel_table_gradient(0, &args));
    fetch(dtable), fetch(scratch);
    expect_bits("dpositions", dpositions); // which are not this kernel's
    double *sum = allocate(vocabulary * columns * sizeof *sum),
           *size = allocate(vocabulary * columns * sizeof *size);
    for (size_t i = 0; i < vocabulary * columns; i++)
        size[i] = fabs(sum[i] = host_number(dtable, i));
    for (size_t i = 0; i < rows * columns; i++) {
        size_t at = (size_t)tokens[i / columns] * columns + i % columns;
        sum[at] += host_number(dy, i);
        size[at] += fabs(host_number(dy, i));
    }
    for (size_t i = 0; i < vocabulary * columns; i++) // any order of additions in F32 is this near
        expect_near("dtable", result_number(dtable, i), sum[i], (double)(rows + 1) * 0x1p-24 * size[i]);
    REQUIRE(cudaFree(on_device));
    free(tokens), free(sum), free(size);
    release_arrays(NULL);
}

static void tables_of_any_vocabulary(void **unused)
{
    (void)unused;
    static const size_t vocabularies[] = {1, 2, 255, 256, 257, 50257, 65535, 65536, 70001};
    for (size_t i = 0; i < sizeof vocabularies / sizeof *vocabularies; i++)
        for (int mix = EVEN; mix < MIXES; mix++)
            check_table(1 + draw(400), 1 + draw(5), vocabularies[i], (Mix)mix, draw(2));
}

// Shares of the list of several steps for each warp of the sort, and tokens of hundreds of chunks.
static void many_rows(void **unused)
{
    (void)unused;
    for (int mix = EVEN; mix < MIXES; mix++)
        check_table(9000 + draw(2000), 3, 300, (Mix)mix, draw(2));
    check_table(2 * LS_EMBEDDING_CHUNK, 520, 2, RUNS, false);
    check_table(333, 520, 40, EVEN, false);
    check_table(333, 521, 5, SKEWED, true);
}

// Nothing comes of a token that is none, but NaN where it is seen.
static void no_token(void **unused)
{
    (void)unused;
    enum { ROWS = 100, COLUMNS = 4, VOCABULARY = 65536 };
    static const int32_t bad[] = {-1, VOCABULARY, INT32_MAX, INT32_MIN};
    int32_t tokens[ROWS];
    void *on_device;
    REQUIRE(cudaMalloc(&on_device, sizeof tokens));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Array *dy = array_of(LS_F32, ROWS * COLUMNS), *dtable = array_of(LS_F32, VOCABULARY * COLUMNS);
        Array *dpositions = array_of(LS_F32, COLUMNS);
        Array *scratch = array_of(LS_F32, ls_embedding_scratch(ROWS, VOCABULARY, COLUMNS) / sizeof(float));
        for (size_t r = 0; r < ROWS; r++)
            tokens[r] = bad[i];
        REQUIRE(cudaMemcpy(on_device, tokens, sizeof tokens, cudaMemcpyHostToDevice));
        LsEmbeddingGradient args = {ROWS, 1, COLUMNS, on_device, VOCABULARY, dy->device, LS_F32,
            dtable->device, dpositions->device, true, scratch->device};
        REQUIRE(ls_kernel_table_gradient(0, &args));
        expect_bits("dtable", dtable);
        fetch(dpositions);
        assert_true(isnan(result_number(dpositions, 0)));
        release_arrays(NULL);
    }
    REQUIRE(cudaFree(on_device));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(rows_of_any_length, release_arrays),
        cmocka_unit_test_teardown(rows_in_slices, release_arrays),
        cmocka_unit_test_teardown(tables_of_any_vocabulary, release_arrays),
        cmocka_unit_test_teardown(many_rows, release_arrays),
        cmocka_unit_test_teardown(no_token, release_arrays),
    };
    return RUN_ON_GPU(tests);
}
