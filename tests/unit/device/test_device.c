/* The contract of device.h, on host and fake alike; and that fake shows who does not wait. */
#include "device/device.h"

#include "base/clock.h"
#include "base/fault.h"
#include "support/support.h"
#include "support/torture.h"

#define WAIT_US (10 * SL_SECOND_US)

static const enum device_kind kinds[] = {DEVICE_HOST, DEVICE_FAKE};

static void test_create(void **state)
{
    (void)state;
    struct device *device = NULL;
    assert_ok(device_create(DEVICE_HOST, 0, 0, &device));
    assert_string_equal(device_name(device), "host");
    assert_int_equal(device_kind(device), DEVICE_HOST);
    device_destroy(device);
    assert_ok(device_create(DEVICE_FAKE, 0, 1, &device));
    assert_string_equal(device_name(device), "fake");
    device_destroy(device);
    device_destroy(NULL);
#ifndef SLUICE_CUDA
    assert_fails(device_create(DEVICE_CUDA, 0, 0, &device), SL_UNSUPPORTED, "no CUDA");
#endif
}

static void test_memory(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        struct device *device;
        struct device_memory memory = {0};
        assert_ok(device_create(kinds[k], 0, 1, &device));
        assert_fails(device_alloc(device, 0, &memory), SL_INVALID, "no bytes");
        assert_ok(device_alloc(device, 5000, &memory));
        assert_int_equal((uintptr_t)memory.address % 4096, 0);
        const unsigned char *bytes = memory.address; /* a test may look */
        unsigned char expected = kinds[k] == DEVICE_FAKE ? DEVICE_FAKE_JUNK : 0;
        for (size_t i = 0; i < 5000; i++)
            assert_int_equal(bytes[i], expected);
        assert_ptr_equal(device_export(&memory, 100, 4900), bytes + 100);
        device_free(&memory);
        assert_null(memory.address);
        device_free(&memory);
        device_destroy(device);
    }
}

static void test_alloc_fault(void **state)
{
    (void)state;
    struct device *device;
    struct device_memory memory = {0};
    assert_ok(device_create(DEVICE_HOST, 0, 0, &device));
    assert_ok(sl_fault_configure("device_alloc=fail:1"));
    assert_fails(device_alloc(device, 64, &memory), SL_NO_MEMORY, "64 bytes");
    assert_null(memory.address);
    assert_ok(device_alloc(device, 64, &memory));
    device_free(&memory);
    sl_fault_clear();
    device_destroy(device);
}

struct append {
    uint32_t *list;
    uint32_t *n;
    uint32_t value;
};

static void append(void *arg)
{
    struct append *a = arg;
    a->list[(*a->n)++] = a->value;
}

/* More launches than the queue holds, each after the one before. */
static void test_order_within_a_stream(void **state)
{
    (void)state;
    enum { N = 2000 };
    for (size_t k = 0; k < 2; k++) {
        struct device *device;
        struct device_stream *stream;
        assert_ok(device_create(kinds[k], 0, 42, &device));
        assert_ok(device_stream_create(device, "compute", &stream));
        assert_null(device_stream_native(stream));
        uint32_t list[N], n = 0;
        for (uint32_t i = 0; i < N; i++) {
            struct append a = {list, &n, i};
            device_launch(stream, append, &a, sizeof(a));
            memset(&a, 0xEE, sizeof(a)); /* the arguments were copied */
        }
        assert_ok(device_stream_wait(stream));
        assert_int_equal(n, N);
        for (uint32_t i = 0; i < N; i++)
            assert_int_equal(list[i], i);
        device_stream_destroy(stream);
        device_destroy(device);
    }
}

/* In, across, out, with an event at the end: what every kind of device must do. */
static void copy_round_trip(struct device *device)
{
    enum { BYTES = 10000 };
    struct device_stream *stream;
    struct device_event *event;
    struct device_memory a = {0}, b = {0};
    static unsigned char in[BYTES], out[BYTES];
    assert_ok(device_stream_create(device, "copy", &stream));
    assert_ok(device_event_create(device, &event));
    assert_true(device_event_done(event)); /* never recorded */
    assert_ok(device_alloc(device, BYTES + 10, &a));
    assert_ok(device_alloc(device, BYTES, &b));
    assert_int_equal((uintptr_t)a.address % 4096, 0);
    for (size_t i = 0; i < BYTES; i++)
        in[i] = (unsigned char)(i * 7 + 3);
    memset(out, 0, sizeof(out));
    device_copy_in(stream, &a, 10, in, BYTES);
    device_copy(stream, &b, 0, &a, 10, BYTES);
    device_copy_out(stream, out, &b, 0, BYTES);
    device_copy_out(stream, out, &b, BYTES, 0); /* nothing, at the end */
    device_event_record(event, stream);
    assert_ok(device_event_wait(event, WAIT_US));
    assert_true(device_event_done(event));
    assert_ok(device_stream_wait(stream));
    assert_memory_equal(in, out, BYTES);
    device_free(&a);
    device_free(&b);
    device_event_destroy(event);
    device_stream_destroy(stream);
}

static void test_copies(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        struct device *device;
        assert_ok(device_create(kinds[k], 0, 7, &device));
        copy_round_trip(device);
        device_destroy(device);
    }
}

#ifdef SLUICE_CUDA
static void test_cuda_copies(void **state)
{
    (void)state;
    struct device *device;
    if (device_create(DEVICE_CUDA, 0, 0, &device) != SL_OK) {
        print_message("skip: %s\n", sl_error());
        skip();
    }
    copy_round_trip(device);
    device_destroy(device);
}
#endif

struct gate {
    _Atomic bool open;
};

static void wait_for_gate(void *arg)
{
    struct gate *gate = *(struct gate **)arg;
    while (!gate->open)
        sl_sleep_us(100);
}

/* While a stream is busy its events are not complete, and nothing behind has happened. */
static void test_fake_shows_a_missing_wait(void **state)
{
    (void)state;
    struct device *device;
    struct device_stream *stream;
    struct device_event *event;
    struct device_memory memory = {0};
    assert_ok(device_create(DEVICE_FAKE, 0, 3, &device));
    assert_ok(device_stream_create(device, "compute", &stream));
    assert_ok(device_event_create(device, &event));
    assert_ok(device_alloc(device, 64, &memory));
    struct gate gate = {false}, *args = &gate;
    uint64_t value = 77, out = 5;
    device_copy_in(stream, &memory, 0, &value, sizeof(value));
    device_launch(stream, wait_for_gate, &args, sizeof(args));
    device_copy_out(stream, &out, &memory, 0, sizeof(out));
    device_event_record(event, stream);
    assert_false(device_event_done(event));
    assert_fails(device_event_wait(event, 2000), SL_DEADLINE, "not complete after 2000 us");
    gate.open = true;
    assert_ok(device_event_wait(event, WAIT_US));
    assert_int_equal(out, 77);
    device_free(&memory);
    device_event_destroy(event);
    device_stream_destroy(stream);
    device_destroy(device);
}

/* A record that is overtaken by a later one on another stream does not complete the later one; and
 * an event may go while its record is still to come. */
static void test_fake_event_is_recorded_again(void **state)
{
    (void)state;
    struct device *device;
    struct device_stream *a, *b;
    struct device_event *event;
    assert_ok(device_create(DEVICE_FAKE, 0, 3, &device));
    assert_ok(device_stream_create(device, "a", &a));
    assert_ok(device_stream_create(device, "b", &b));
    assert_ok(device_event_create(device, &event));
    struct gate gate_a = {false}, gate_b = {false}, *args = &gate_a;
    device_launch(a, wait_for_gate, &args, sizeof(args));
    args = &gate_b;
    device_launch(b, wait_for_gate, &args, sizeof(args));
    device_event_record(event, b);
    device_event_record(event, a); /* the one that counts */
    gate_b.open = true;
    assert_ok(device_stream_wait(b));
    assert_false(device_event_done(event));
    gate_a.open = true;
    assert_ok(device_event_wait(event, WAIT_US));
    gate_a.open = false;
    args = &gate_a;
    device_launch(a, wait_for_gate, &args, sizeof(args));
    device_event_record(event, a);
    device_event_destroy(event);
    gate_a.open = true;
    device_stream_destroy(a);
    device_stream_destroy(b);
    device_destroy(device);
}

struct mark {
    _Atomic uint32_t *next;
    uint32_t *order;
    uint32_t stream;
};

static void mark(void *arg)
{
    struct mark *m = arg;
    m->order[(*m->next)++] = m->stream;
}

/* Two streams that are given work in turn do not run it in turn. */
static void test_fake_streams_run_against_each_other(void **state)
{
    (void)state;
    enum { N = 200 };
    struct device *device;
    struct device_stream *streams[2];
    assert_ok(device_create(DEVICE_FAKE, 0, 11, &device));
    assert_ok(device_stream_create(device, "a", &streams[0]));
    assert_ok(device_stream_create(device, "b", &streams[1]));
    _Atomic uint32_t next = 0;
    uint32_t order[2 * N], swaps = 0;
    for (uint32_t i = 0; i < 2 * N; i++) {
        struct mark m = {&next, order, i % 2};
        device_launch(streams[i % 2], mark, &m, sizeof(m));
    }
    assert_ok(device_stream_wait(streams[0]));
    assert_ok(device_stream_wait(streams[1]));
    for (uint32_t i = 0; i < 2 * N; i++)
        swaps += order[i] != i % 2;
    assert_int_equal(next, 2 * N);
    assert_true(swaps > 0);
    device_stream_destroy(streams[0]);
    device_stream_destroy(streams[1]);
    device_destroy(device);
}

static sl_status round_trip(void *arg)
{
    struct device *device = arg;
    struct device_stream *stream = NULL;
    struct device_memory memory = {0};
    uint64_t value = 5, out = 0;
    sl_status status = device_stream_create(device, "t", &stream);
    if (status != SL_OK)
        return status;
    status = device_alloc(device, 4096, &memory);
    if (status == SL_OK) {
        device_copy_in(stream, &memory, 8, &value, 8);
        device_copy_out(stream, &out, &memory, 8, 8);
        status = device_stream_wait(stream);
    }
    if (status == SL_OK && out != value)
        status = sl_fail(SL_CORRUPT, "read %u", (unsigned)out);
    device_free(&memory);
    device_stream_destroy(stream);
    return status;
}

static void test_torture(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        struct device *device;
        assert_ok(device_create(kinds[k], 0, 1, &device));
        torture_run(device_name(device), round_trip, NULL, device, 100);
        assert_ok(round_trip(device));
        device_destroy(device);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_alloc_fault),
        cmocka_unit_test(test_order_within_a_stream),
        cmocka_unit_test(test_copies),
#ifdef SLUICE_CUDA
        cmocka_unit_test(test_cuda_copies),
#endif
        cmocka_unit_test(test_fake_shows_a_missing_wait),
        cmocka_unit_test(test_fake_event_is_recorded_again),
        cmocka_unit_test(test_fake_streams_run_against_each_other),
        cmocka_unit_test(test_torture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
