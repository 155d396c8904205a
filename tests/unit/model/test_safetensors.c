/* safetensors: what is accepted, and every way in which a file can lie. */
#include "base/mem.h"
#include "kernels/kernels.h"
#include "model/safetensors.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- headers ---- */

static void test_good_header(void **state)
{
    (void)state;
    const char *header = "{\"__metadata__\":{\"format\":\"pt\"},"
                         "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[8,32]},"
                         "\"a\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[0,8]},"
                         "\"empty\":{\"dtype\":\"F16\",\"shape\":[0,5],\"data_offsets\":[32,32]},"
                         "\"scalar\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[32,40]}}   ";
    struct model_tensor *tensors;
    uint32_t n;
    if (model_safetensors_parse("x", header, strlen(header), 40, &tensors, &n) != SL_OK)
        fail_msg("%s", sl_error());
    assert_int_equal(n, 4);
    assert_string_equal(tensors[0].name, "a");
    assert_int_equal(tensors[0].element, KERNEL_BF16);
    assert_string_equal(tensors[1].name, "b");
    assert_int_equal(tensors[1].n_dims, 2);
    assert_int_equal(tensors[1].dims[1], 3);
    assert_int_equal(tensors[1].offset, 8);
    assert_string_equal(tensors[3].name, "scalar");
    assert_int_equal(tensors[3].element, MODEL_TENSOR_NO_ELEMENT);
    model_safetensors_free(tensors, n);
}

#define ENTRY(name, shape, offsets)                                                                \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void test_lying_headers(void **state)
{
    (void)state;
    const struct {
        const char *header;
        uint64_t data_bytes;
        sl_status status;
        const char *sentence;
    } lies[] = {
        {"", 0, SL_CORRUPT, "line 1"},
        {"[]", 0, SL_CORRUPT, "no object"},
        {"{\"a\":1}", 0, SL_CORRUPT, "a: not an object"},
        {"{\"a\":{}}", 0, SL_CORRUPT, "a: dtype is missing"},
        {"{\"a\":{\"dtype\":\"Q4\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, SL_UNSUPPORTED,
         "dtype is 'Q4'"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, SL_CORRUPT, "shape must be"},
        {"{" ENTRY("a", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, SL_CORRUPT, "at most 8"},
        {"{" ENTRY("a", "[-1]", "[0,4]") "}", 4, SL_CORRUPT, "shape[0]"},
        {"{" ENTRY("a", "[1.5]", "[0,4]") "}", 4, SL_CORRUPT, "shape[0]"},
        {"{" ENTRY("a", "[4294967296,4294967296,2]", "[0,4]") "}", 4, SL_CORRUPT, "2^64"},
        /* 2^62 elements of 32 bits: the product fits, the bits do not */
        {"{" ENTRY("a", "[4611686018427387904]", "[0,0]") "}", 4, SL_CORRUPT, "do not fill"},
        {"{" ENTRY("a", "[1]", "[0]") "}", 4, SL_CORRUPT, "two numbers"},
        {"{" ENTRY("a", "[1]", "[0,\"4\"]") "}", 4, SL_CORRUPT, "two numbers"},
        {"{" ENTRY("a", "[1]", "[4,0]") "}", 4, SL_CORRUPT, "do not lie"},
        {"{" ENTRY("a", "[1]", "[-4,0]") "}", 4, SL_CORRUPT, "do not lie"},
        {"{" ENTRY("a", "[2]", "[0,8]") "}", 4, SL_CORRUPT, "truncated"},
        {"{" ENTRY("a", "[2]", "[0,4]") "}", 4, SL_CORRUPT, "2 elements of F32"},
        {"{" ENTRY("a", "[2]", "[0,8]") "," ENTRY("b", "[2]", "[4,12]") "}", 12, SL_CORRUPT,
         "a and b overlap"},
        {"{" ENTRY("a", "[2]", "[0,8]") "," ENTRY("b", "[2]", "[0,8]") "}", 8, SL_CORRUPT,
         "overlap"},
        {"{" ENTRY("a", "[1]", "[0,4]") "," ENTRY("b", "[1]", "[8,12]") "}", 12, SL_CORRUPT,
         "4 bytes before b"},
        {"{" ENTRY("a", "[1]", "[0,4]") "}", 12, SL_CORRUPT, "8 bytes at the end"},
        {"{" ENTRY("a", "[1]", "[0,4]") "," ENTRY("a", "[1]", "[4,8]") "}", 8, SL_CORRUPT,
         "duplicate"},
        {"{" ENTRY("a", "[1]", "[0,4]") "} x", 4, SL_CORRUPT, "line 1"},
        {"{" ENTRY("a\\u0000b", "[1]", "[0,4]") "}", 4, SL_CORRUPT, "x: line 1"},
    };
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        struct model_tensor *tensors;
        uint32_t n;
        sl_status status = model_safetensors_parse("x", lies[i].header, strlen(lies[i].header),
                                                   lies[i].data_bytes, &tensors, &n);
        if (status != lies[i].status || strstr(sl_error(), lies[i].sentence) == NULL)
            fail_msg("%s: %s: %s", lies[i].header, sl_status_name(status), sl_error());
    }
}

/* ---- files ---- */

static char directory[64];

static void path_of(const char *name, char *out, size_t bytes)
{
    snprintf(out, bytes, "%s/%s", directory, name);
}

static void write_bytes(const char *name, const void *bytes, size_t n)
{
    char path[256];
    path_of(name, path, sizeof(path));
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

/* A safetensors file of `length` as its header's length, and so many of its data's bytes. */
static void write_file(const char *name, uint64_t length, const char *header, const void *data,
                       size_t data_bytes)
{
    char bytes[4096];
    size_t n = strlen(header);
    assert_true(8 + n + data_bytes <= sizeof(bytes));
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)(length >> (8 * i));
    memcpy(bytes + 8, header, n);
    if (data_bytes > 0)
        memcpy(bytes + 8 + n, data, data_bytes);
    write_bytes(name, bytes, 8 + n + data_bytes);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(directory, sizeof(directory), "/tmp/sluice-tensors-XXXXXX");
    return mkdtemp(directory) == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    const char *names[] = {"model.safetensors", "model.safetensors.index.json", "one", "two"};
    char path[256];
    for (size_t i = 0; i < 4; i++) {
        path_of(names[i], path, sizeof(path));
        (void)unlink(path);
    }
    return rmdir(directory);
}

static void refused(sl_status want, const char *sentence)
{
    struct model_tensors *tensors;
    sl_status status = model_tensors_open(directory, &tensors);
    if (status == SL_OK)
        fail_msg("opened; want: %s", sentence);
    if (status != want || strstr(sl_error(), sentence) == NULL)
        fail_msg("%s: %s; want: %s", sl_status_name(status), sl_error(), sentence);
}

#define ONE_HEADER "{" ENTRY("a", "[2]", "[0,8]") "}"
#define TWO_HEADER "{" ENTRY("b", "[1]", "[0,4]") "}"

static void test_one_file(void **state)
{
    (void)state;
    const float values[2] = {1.5f, -2};
    struct model_tensors *tensors;
    refused(SL_NOT_FOUND, "model.safetensors: No such file");
    write_file("model.safetensors", strlen(ONE_HEADER), ONE_HEADER, values, 8);
    if (model_tensors_open(directory, &tensors) != SL_OK)
        fail_msg("%s", sl_error());
    assert_int_equal(model_tensors_count(tensors), 1);
    const struct model_tensor *tensor = model_tensors_find(tensors, "a");
    assert_non_null(tensor);
    assert_memory_equal(tensor->data, values, 8);
    assert_null(model_tensors_find(tensors, "b"));
    model_tensor_drop(tensor);
    assert_memory_equal(tensor->data, values, 8);
    model_tensors_close(tensors);
}

static void test_bad_files(void **state)
{
    (void)state;
    const float values[4] = {0, 1, 2, 3};
    write_bytes("model.safetensors", "", 0);
    refused(SL_CORRUPT, "0 bytes hold no header");
    write_bytes("model.safetensors", "\1\0\0\0\0\0\0", 7);
    refused(SL_CORRUPT, "7 bytes hold no header");
    write_file("model.safetensors", UINT64_MAX, ONE_HEADER, values, 8);
    refused(SL_CORRUPT, "a header of 18446744073709551615 bytes; at most");
    write_file("model.safetensors", 5000, ONE_HEADER, values, 8);
    refused(SL_CORRUPT, "a header of 5000 bytes in a file of");
    write_file("model.safetensors", strlen(ONE_HEADER), ONE_HEADER, values, 7); /* truncated */
    refused(SL_CORRUPT, "truncated");
    write_file("model.safetensors", strlen(ONE_HEADER), ONE_HEADER, values, 12); /* appended */
    refused(SL_CORRUPT, "4 bytes at the end");
    write_file("model.safetensors", strlen(ONE_HEADER) - 1, ONE_HEADER, values, 8);
    refused(SL_CORRUPT, "model.safetensors: line 1");
    write_file("model.safetensors", 2, "{}", values, 0);
    refused(SL_CORRUPT, "no tensors");
}

static void write_index(const char *text)
{
    write_bytes("model.safetensors.index.json", text, strlen(text));
}

static void test_shards(void **state)
{
    (void)state;
    const float values[2] = {1, 2};
    struct model_tensors *tensors;
    write_file("one", strlen(ONE_HEADER), ONE_HEADER, values, 8);
    write_file("two", strlen(TWO_HEADER), TWO_HEADER, values, 4);
    write_index("{\"metadata\": {}, \"weight_map\": {\"a\": \"one\", \"b\": \"two\"}}");
    if (model_tensors_open(directory, &tensors) != SL_OK)
        fail_msg("%s", sl_error());
    assert_int_equal(model_tensors_count(tensors), 2);
    assert_memory_equal(model_tensors_find(tensors, "b")->data, values, 4);
    const struct model_file *files;
    assert_int_equal(model_tensors_files(tensors, &files), 2);
    assert_true(model_tensors_bytes(tensors) == files[0].bytes + files[1].bytes);
    model_tensors_close(tensors);

    write_index("{\"weight_map\": {\"a\": \"two\", \"b\": \"one\"}}");
    refused(SL_CORRUPT, "a is in");
    write_index("{\"weight_map\": {\"a\": \"one\", \"c\": \"two\"}}");
    refused(SL_CORRUPT, "c is not in two");
    write_index("{\"weight_map\": {\"a\": \"one\", \"b\": \"three\"}}");
    refused(SL_NOT_FOUND, "three: No such file");
    write_index("{\"weight_map\": {\"a\": \"../one\"}}");
    refused(SL_CORRUPT, "not the name of a file");
    write_index("{\"weight_map\": {\"a\": \"..\"}}");
    refused(SL_CORRUPT, "not the name of a file");
    write_index("{\"weight_map\": {\"a\": 3}}");
    refused(SL_CORRUPT, "not the name of a file");
    write_index("{\"weight_map\": {}}");
    refused(SL_CORRUPT, "weight_map is missing");
    write_index("{\"weight_map\": ");
    refused(SL_INVALID, "index.json: line 1");
    write_file("two", strlen(ONE_HEADER), ONE_HEADER, values, 8);
    write_index("{\"weight_map\": {\"a\": \"one\", \"b\": \"two\"}}");
    refused(SL_CORRUPT, "a is in");
    /* In both files, though the index names the right one. */
    const char *both = "{" ENTRY("b", "[1]", "[0,4]") "," ENTRY("a", "[1]", "[4,8]") "}";
    write_file("two", strlen(both), both, values, 8);
    refused(SL_CORRUPT, "one too");
}

/* Several tensors in each of two files: each is found, with its own bytes. */
static void test_many_in_shards(void **state)
{
    (void)state;
    const float first[3] = {1, 2, 3}, second[3] = {4, 5, 6};
    const char *one = "{" ENTRY("z", "[1]", "[0,4]") "," ENTRY("b", "[2]", "[4,12]") "}";
    const char *two = "{" ENTRY("y", "[1]", "[0,4]") "," ENTRY("a", "[1]", "[4,8]") "," ENTRY(
        "c", "[1]", "[8,12]") "}";
    write_file("one", strlen(one), one, first, 12);
    write_file("two", strlen(two), two, second, 12);
    write_index("{\"weight_map\": {\"z\": \"one\", \"b\": \"one\", \"y\": \"two\", \"a\": \"two\", "
                "\"c\": \"two\"}}");
    struct model_tensors *tensors;
    if (model_tensors_open(directory, &tensors) != SL_OK)
        fail_msg("%s", sl_error());
    assert_int_equal(model_tensors_count(tensors), 5);
    const struct {
        const char *name;
        const float *values;
        size_t bytes;
    } wanted[] = {{"z", first, 4},
                  {"b", first + 1, 8},
                  {"y", second, 4},
                  {"a", second + 1, 4},
                  {"c", second + 2, 4}};
    for (size_t i = 0; i < 5; i++) {
        const struct model_tensor *tensor = model_tensors_find(tensors, wanted[i].name);
        assert_non_null(tensor);
        assert_int_equal(tensor->bytes, wanted[i].bytes);
        assert_memory_equal(tensor->data, wanted[i].values, wanted[i].bytes);
    }
    assert_null(model_tensors_find(tensors, "x"));
    model_tensors_close(tensors);
}

/* Random damage to a good header: accepted or refused, never a crash or a tensor outside the data. */
static void test_damage(void **state)
{
    (void)state;
    const char *good = "{" ENTRY("a", "[2]", "[0,8]") "," ENTRY("b", "[3,1]", "[8,20]") "}";
    uint64_t random = 7;
    uint32_t n_accepted = 0;
    for (uint32_t round = 0; round < 20000; round++) {
        char header[256];
        size_t bytes = strlen(good);
        memcpy(header, good, bytes);
        for (uint32_t i = 0; i < 1 + round % 3; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            const char *from = "0123456789[]{},:\"-.eFI";
            header[(random >> 33) % bytes] = from[(random >> 50) % strlen(from)];
        }
        struct model_tensor *tensors;
        uint32_t n;
        if (model_safetensors_parse("x", header, bytes, 20, &tensors, &n) != SL_OK)
            continue;
        uint64_t end = 0;
        for (uint32_t i = 0; i < n; i++) {
            assert_true(tensors[i].offset == end);
            end += tensors[i].bytes;
        }
        assert_true(end == 20);
        model_safetensors_free(tensors, n);
        n_accepted++;
    }
    assert_true(n_accepted > 0 && n_accepted < 10000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_header),
        cmocka_unit_test(test_lying_headers),
        cmocka_unit_test_setup_teardown(test_one_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_shards, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_in_shards, set_up, tear_down),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
