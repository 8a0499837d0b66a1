// The emulated runtime's devices, errors, memory and copies.
#include "runtime_test.h"

enum { MEMORY = 64 << 20, N = 1000 };

// ---- Devices and errors ---------------------------------------------------------------------------------

static void test_devices_are_described(void **state)
{
    (void)state;
    int count = 0, device = -1, version = 0, value = 0;
    OK(cudaGetDeviceCount(&count));
    assert_int_equal(count, 2);
    struct cudaDeviceProp first, again, second;
    OK(cudaGetDeviceProperties(&first, 0));
    OK(cudaGetDeviceProperties(&again, 0));
    OK(cudaGetDeviceProperties(&second, 1));
    assert_string_equal(first.name, "Emulated GPU");
    assert_int_equal(first.totalGlobalMem, MEMORY);
    assert_int_equal(first.major * 10 + first.minor, 90);
    assert_memory_equal(&first.uuid, &again.uuid, sizeof first.uuid);
    assert_memory_not_equal(&first.uuid, &second.uuid, sizeof first.uuid);
    FAILS(cudaGetDeviceProperties(&first, 2), cudaErrorInvalidDevice);
    OK(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    assert_int_equal(value, first.sharedMemPerBlockOptin);
    FAILS(cudaDeviceGetAttribute(&value, (enum cudaDeviceAttr)9999, 0), cudaErrorInvalidValue);
    FAILS(cudaSetDevice(2), cudaErrorInvalidDevice);
    OK(cudaSetDevice(1));
    OK(cudaGetDevice(&device));
    assert_int_equal(device, 1);
    OK(cudaSetDevice(0));
    OK(cudaDriverGetVersion(&version));
    assert_int_equal(version, CUDART_VERSION);
    OK(cudaRuntimeGetVersion(&version));
    assert_int_equal(version, CUDART_VERSION);
}

static void test_last_error_is_kept_until_read(void **state)
{
    (void)state;
    cudaGetLastError();
    FAILS(cudaSetDevice(7), cudaErrorInvalidDevice);
    OK(cudaSetDevice(0)); // success does not clear it
    FAILS(cudaPeekAtLastError(), cudaErrorInvalidDevice);
    FAILS(cudaGetLastError(), cudaErrorInvalidDevice);
    OK(cudaGetLastError());
    assert_string_equal(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
    assert_string_equal(cudaGetErrorName((cudaError_t)12345), "unrecognized error code");
}

static void without_driver(void)
{
    // This process has read its environment; another program reads it anew.
    setenv("EMULATED_GPUS", "0", 1);
    execl("/proc/self/exe", "test_runtime", "without driver", (char *)NULL);
    _exit(1);
}

static int main_without_driver(void)
{
    int count = -1, version = -1;
    void *memory;
    bool right = cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver && count == -1 &&
                 cudaDriverGetVersion(&version) == cudaSuccess && version == 0 &&
                 cudaMalloc(&memory, 1) == cudaErrorInsufficientDriver &&
                 cudaDeviceSynchronize() == cudaErrorInsufficientDriver &&
                 cudaStreamSynchronize(NULL) == cudaErrorInsufficientDriver;
    return right ? 42 : 1;
}

static void test_machine_without_driver(void **state)
{
    (void)state;
    char text[4096];
    int status = run_child(without_driver, text, sizeof text);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);
}

// ---- Memory ---------------------------------------------------------------------------------------------

static void test_new_memory_is_nan(void **state)
{
    (void)state;
    float *device = new_device(N), host[N];
    memset(host, 0, sizeof host);
    OK(cudaMemcpy(host, device, sizeof host, cudaMemcpyDeviceToHost));
    assert_true(all_bytes(host, sizeof host, 0xff));
    assert_int_equal((uintptr_t)device % 256, 0);
    OK(cudaFree(device));
}

static void read_from_host(void)
{
    const volatile float *device = new_device(N);
    (void)device[0];
}

static void write_from_host(void)
{
    volatile float *device = new_device(N);
    OK(cudaMemset((void *)(uintptr_t)device, 0, N * sizeof(float)));
    OK(cudaDeviceSynchronize()); // the memory was open and is closed again
    device[1] = 1;
}

static void read_from_host_function(void *data)
{
    (void)*(const volatile float *)data;
}

static void read_in_host_function(void)
{
    cudaStream_t stream = new_stream();
    OK(cudaLaunchHostFunc(stream, read_from_host_function, new_device(N)));
    OK(cudaStreamSynchronize(stream));
}

static void test_host_cannot_touch_device_memory(void **state)
{
    (void)state;
    expect_crash(read_from_host);
    expect_crash(write_from_host);
    expect_crash(read_in_host_function);
}

static void write_beyond(void)
{
    float *device = new_device(N), *other = new_device(N);
    cudaStream_t stream = new_stream();
    OK(enqueue_addition(stream, device + 1, other, N, 1)); // one too many
    OK(cudaStreamSynchronize(stream));
    OK(cudaFree(device));
}

static void test_writing_beyond_the_end_is_found(void **state)
{
    (void)state;
    char text[1 << 16];
    int status = run_child(write_beyond, text, sizeof text);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    // By the sanitizer at once, otherwise when the memory is freed.
    if (!strstr(text, "use-after-poison"))
        assert_non_null(strstr(text, "wrote 0 bytes beyond the end of an allocation of 4000 bytes"));
}

static void use_freed(void)
{
    float *device = new_device(N), *kept = new_device(N);
    OK(cudaFree(device));
    OK(cudaMemcpyAsync(kept, device, sizeof(float), cudaMemcpyDeviceToDevice, NULL));
}

static void read_freed_page(void)
{
    float *device = new_device(1 << 20);
    cudaStream_t stream = new_stream();
    OK(cudaFree(device));
    OK(enqueue_addition(stream, device, device, 1 << 20, 1));
    OK(cudaStreamSynchronize(stream));
}

static void test_freed_memory_is_gone(void **state)
{
    (void)state;
    float *first = new_device(N);
    OK(cudaFree(first));
    FAILS(cudaFree(first), cudaErrorInvalidValue);
    float *second = new_device(N);
    assert_ptr_not_equal(first, second); // not used again soon
    FAILS(cudaFree(second + 1), cudaErrorInvalidValue);
    OK(cudaFree(second));
    OK(cudaFree(NULL));
    expect_fault(use_freed, "in no living allocation");
    expect_crash(read_freed_page);
}

static void test_memory_has_an_end(void **state)
{
    (void)state;
    size_t free_before, free_after, total;
    void *most, *more = NULL;
    OK(cudaMemGetInfo(&free_before, &total));
    assert_int_equal(total, MEMORY);
    FAILS(cudaMalloc(&more, free_before + 1), cudaErrorMemoryAllocation);
    FAILS(cudaMalloc(&more, SIZE_MAX), cudaErrorMemoryAllocation);
    OK(cudaMalloc(&most, free_before));
    OK(cudaMemGetInfo(&free_after, &total));
    assert_int_equal(free_after, 0);
    FAILS(cudaMalloc(&more, 1), cudaErrorMemoryAllocation);
    assert_null(more);
    OK(cudaSetDevice(1)); // has its own memory
    OK(cudaMalloc(&more, 1));
    OK(cudaFree(more));
    OK(cudaSetDevice(0));
    OK(cudaFree(most));
    OK(cudaMemGetInfo(&free_after, &total));
    assert_int_equal(free_after, free_before);
}

// Small ones share pages, some of the large ones have pages of their own.
static size_t odd_size(size_t i)
{
    return 1 + i * 37 + (i % 10 == 0 ? 300000 : 0) + (i == 101 ? 5 << 20 : 0);
}

// Many allocations, freed in another order: nobody's bytes change.
static void test_many_allocations_keep_apart(void **state)
{
    (void)state;
    enum { COUNT = 200 };
    static unsigned char host[6 << 20];
    unsigned char *memory[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        OK(cudaMalloc((void **)&memory[i], odd_size(i)));
        OK(cudaMemset(memory[i], (int)i, odd_size(i)));
        if (i % 3 == 2) {
            OK(cudaFree(memory[i - 1]));
            memory[i - 1] = NULL;
        }
    }
    for (size_t j = 0; j < COUNT; j++) {
        size_t i = j * 7 % COUNT;
        if (!memory[i])
            continue;
        OK(cudaMemcpy(host, memory[i], odd_size(i), cudaMemcpyDeviceToHost));
        assert_true(all_bytes(host, odd_size(i), (unsigned char)i));
        OK(cudaFree(memory[i]));
        assert_false(ls_emulator_owns(memory[i], 1));
    }
}

static void test_owns_what_is_living(void **state)
{
    (void)state;
    char *device = (char *)new_device(N), *pinned = (char *)new_pinned(N), pageable[8];
    size_t bytes = N * sizeof(float);
    assert_true(ls_emulator_owns(device, bytes));
    assert_true(ls_emulator_owns(device + bytes - 1, 1));
    assert_false(ls_emulator_owns(device + 1, bytes));
    assert_false(ls_emulator_owns(device - 1, 1));
    assert_true(ls_emulator_owns(pinned, bytes)); // kernels may use it
    assert_false(ls_emulator_owns(pinned, bytes + 1));
    assert_false(ls_emulator_owns(pageable, 1));
    struct cudaPointerAttributes attributes;
    OK(cudaPointerGetAttributes(&attributes, device + 5));
    assert_int_equal(attributes.type, cudaMemoryTypeDevice);
    OK(cudaPointerGetAttributes(&attributes, pinned + 5));
    assert_int_equal(attributes.type, cudaMemoryTypeHost);
    OK(cudaPointerGetAttributes(&attributes, pageable));
    assert_int_equal(attributes.type, cudaMemoryTypeUnregistered);
    OK(cudaFree(device));
    OK(cudaFreeHost(pinned));
    FAILS(cudaFreeHost(pageable), cudaErrorInvalidValue);
    assert_false(ls_emulator_owns(device, 1));
}

// ---- Memory in stream order -----------------------------------------------------------------------------

static void use_before_allocated(void)
{
    cudaStream_t one = new_stream(), other = new_stream();
    void *memory;
    OK(cudaMallocAsync(&memory, 64, one));
    OK(cudaMemsetAsync(memory, 0, 64, other)); // does not wait for the allocation
    OK(cudaStreamSynchronize(other));
}

static void use_after_freed(void)
{
    cudaStream_t one = new_stream(), other = new_stream();
    void *memory;
    OK(cudaMallocAsync(&memory, 64, one));
    OK(cudaFreeAsync(memory, one));
    OK(cudaMemsetAsync(memory, 0, 64, other));
    OK(cudaStreamSynchronize(one));
    OK(cudaStreamSynchronize(other));
}

static void test_pool_allocates_in_stream_order(void **state)
{
    (void)state;
    cudaStream_t stream = new_stream();
    float *pinned = new_pinned(N);
    void *memory;
    size_t before, after, total;
    OK(cudaMemGetInfo(&before, &total));
    OK(cudaMallocAsync(&memory, N * sizeof(float), stream));
    OK(cudaMemsetAsync(memory, 0, N * sizeof(float), stream));
    OK(cudaMemcpyAsync(pinned, memory, N * sizeof(float), cudaMemcpyDeviceToHost, stream));
    OK(cudaFreeAsync(memory, stream));
    FAILS(cudaFreeAsync(memory, stream), cudaErrorInvalidValue);
    OK(cudaStreamSynchronize(stream));
    assert_true(all_equal(pinned, N, 0));
    OK(cudaMemGetInfo(&after, &total));
    assert_int_equal(before, after);
    expect_fault(use_before_allocated, "before their cudaMallocAsync is reached");
    expect_fault(use_after_freed, "in no living allocation");
    OK(cudaFreeHost(pinned));
    OK(cudaStreamDestroy(stream));
}

// ---- Copies ---------------------------------------------------------------------------------------------

static void test_copies_in_all_directions(void **state)
{
    (void)state;
    cudaStream_t stream = new_stream();
    float *one = new_device(N), *two = new_device(N), *pinned = new_pinned(N), pageable[N];
    size_t bytes = N * sizeof(float);
    for (size_t i = 0; i < N; i++)
        pageable[i] = (float)i;
    OK(cudaMemcpyAsync(one, pageable, bytes, cudaMemcpyHostToDevice, stream));
    memset(pageable, 0, sizeof pageable); // it was read at the call
    OK(cudaMemcpyAsync(two, one, bytes, cudaMemcpyDeviceToDevice, stream));
    OK(cudaMemcpyAsync(pinned, two, bytes, cudaMemcpyDefault, stream));
    OK(cudaStreamSynchronize(stream));
    for (size_t i = 0; i < N; i++)
        assert_true(pinned[i] == (float)i);
    OK(cudaMemcpyAsync(pageable, pinned, bytes, cudaMemcpyDefault, stream)); // host to host waits
    assert_memory_equal(pageable, pinned, bytes);
    OK(cudaMemset(one, 0, bytes));
    OK(cudaMemcpy(pageable, one, bytes, cudaMemcpyDeviceToHost));
    assert_true(all_equal(pageable, N, 0));
    FAILS(cudaMemcpy(pageable, one, bytes, (enum cudaMemcpyKind)5), cudaErrorInvalidMemcpyDirection);
    FAILS(cudaMemcpy(NULL, one, bytes, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    OK(cudaMemcpy(NULL, NULL, 0, cudaMemcpyDeviceToHost));
    OK(cudaFree(one));
    OK(cudaFree(two));
    OK(cudaFreeHost(pinned));
    OK(cudaStreamDestroy(stream));
}

// The last legal moment to read pinned memory is long after the call.
static void test_pinned_memory_is_read_late(void **state)
{
    (void)state;
    cudaStream_t stream = new_stream();
    float *device = new_device(1), *pinned = new_pinned(1), result;
    *pinned = 1;
    OK(cudaMemcpyAsync(device, pinned, sizeof(float), cudaMemcpyHostToDevice, stream));
    *pinned = 2; // too early
    OK(cudaStreamSynchronize(stream));
    *pinned = 3; // in time
    OK(cudaMemcpy(&result, device, sizeof(float), cudaMemcpyDeviceToHost));
    assert_true(result == 2);
    OK(cudaFree(device));
    OK(cudaFreeHost(pinned));
    OK(cudaStreamDestroy(stream));
}

static void test_results_are_nan_until_waited_for(void **state)
{
    (void)state;
    cudaStream_t stream = new_stream();
    float *device = new_device(N), *pinned = new_pinned(N), pageable[N] = {0};
    OK(cudaMemset(device, 0, N * sizeof(float)));
    OK(cudaDeviceSynchronize());
    memset(pinned, 0, N * sizeof(float));
    OK(cudaMemcpyAsync(pinned, device, N * sizeof(float), cudaMemcpyDeviceToHost, stream));
    OK(cudaMemcpyAsync(pageable, device, N * sizeof(float), cudaMemcpyDeviceToHost, stream));
    assert_true(all_bytes(pinned, N * sizeof(float), 0xff));
    assert_true(all_bytes(pageable, N * sizeof(float), 0xff));
    OK(cudaStreamSynchronize(stream));
    assert_true(all_equal(pinned, N, 0));
    assert_true(all_equal(pageable, N, 0));
    OK(cudaFree(device));
    OK(cudaFreeHost(pinned));
    OK(cudaStreamDestroy(stream));
}

// A buffer that is sent and then received into, in order: the bytes that wait to be sent stay.
static void test_pinned_memory_in_use_is_not_marked(void **state)
{
    (void)state;
    cudaStream_t stream = new_stream();
    float *from = new_device(1), *to = new_device(1), *pinned = new_pinned(1), result;
    OK(cudaMemset(from, 0, sizeof(float)));
    OK(cudaDeviceSynchronize());
    *pinned = 5;
    OK(cudaMemcpyAsync(to, pinned, sizeof(float), cudaMemcpyHostToDevice, stream));
    OK(cudaMemcpyAsync(pinned, from, sizeof(float), cudaMemcpyDeviceToHost, stream));
    OK(cudaStreamSynchronize(stream));
    assert_true(*pinned == 0);
    OK(cudaMemcpy(&result, to, sizeof(float), cudaMemcpyDeviceToHost));
    assert_true(result == 5);
    OK(cudaFree(from));
    OK(cudaFree(to));
    OK(cudaFreeHost(pinned));
    OK(cudaStreamDestroy(stream));
}

static void copy_host_as_device(void)
{
    static float host[4], other[4];
    cudaMemcpyAsync(host, other, sizeof host, cudaMemcpyHostToDevice, NULL);
}

static void copy_device_as_host(void)
{
    float *device = new_device(4);
    cudaMemcpyAsync(device, device, 4, cudaMemcpyHostToDevice, NULL);
}

static void copy_too_much(void)
{
    float *device = new_device(4), host[5];
    cudaMemcpy(host, device, sizeof host, cudaMemcpyDeviceToHost);
}

static void fill_host(void)
{
    static float host[4];
    cudaMemset(host, 0, sizeof host);
}

static void test_wrong_pointers_are_faults(void **state)
{
    (void)state;
    expect_fault(copy_host_as_device, "a copy from host to device: 16 bytes");
    expect_fault(copy_device_as_host, "are device memory, not host memory");
    expect_fault(copy_too_much, "reach beyond an allocation of 16 bytes");
    expect_fault(fill_host, "are host memory, not device memory");
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1)
        return main_without_driver();
    setenv("EMULATED_GPUS", "2", 1);
    setenv("EMULATED_GPU_MEMORY", "64M", 1);
    setenv("EMULATED_GPU_SEED", "0", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_devices_are_described),
        cmocka_unit_test(test_last_error_is_kept_until_read),
        cmocka_unit_test(test_machine_without_driver),
        cmocka_unit_test(test_new_memory_is_nan),
        cmocka_unit_test(test_host_cannot_touch_device_memory),
        cmocka_unit_test(test_writing_beyond_the_end_is_found),
        cmocka_unit_test(test_freed_memory_is_gone),
        cmocka_unit_test(test_memory_has_an_end),
        cmocka_unit_test(test_many_allocations_keep_apart),
        cmocka_unit_test(test_owns_what_is_living),
        cmocka_unit_test(test_pool_allocates_in_stream_order),
        cmocka_unit_test(test_copies_in_all_directions),
        cmocka_unit_test(test_pinned_memory_is_read_late),
        cmocka_unit_test(test_results_are_nan_until_waited_for),
        cmocka_unit_test(test_pinned_memory_in_use_is_not_marked),
        cmocka_unit_test(test_wrong_pointers_are_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
