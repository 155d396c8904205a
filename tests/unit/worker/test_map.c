/* The map against a plain array, over random operations on few keys. */
#include "support/support.h"

#include "worker/map.h"

#define KEYS 64u

static void test_against_array(void **state)
{
    (void)state;
    struct worker_map *map;
    assert_ok(worker_map_create(40, &map));
    static int values[KEYS];
    void *model[KEYS] = {0};
    uint32_t n = 0;
    uint64_t random = 1;
    for (uint32_t i = 0; i < 50000; i++) {
        uint64_t key = test_random(&random) % KEYS;
        uint64_t spread = key * 0x100000001ull; /* keys that differ in few bits */
        assert_ptr_equal(worker_map_get(map, spread), model[key]);
        if (model[key] != NULL) {
            worker_map_remove(map, spread);
            model[key] = NULL;
            n--;
        } else {
            bool room = n < 40;
            assert_int_equal(worker_map_put(map, spread, &values[key]), room);
            if (room) {
                model[key] = &values[key];
                n++;
            }
        }
        worker_map_remove(map, 1ull << 63); /* never there */
    }
    for (uint64_t key = 0; key < KEYS; key++)
        assert_ptr_equal(worker_map_get(map, key * 0x100000001ull), model[key]);
    worker_map_destroy(map);
    worker_map_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_array)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
