/* The queue for the router: who passes whom when a place is lacking, with nodes that follow a script. */
#include "unit/coordinator/fixture.h"

#define FILL    32u /* requests without a promise that a node is given */
#define WAIT_MS 20000

/* A decode node that has its fill of requests, none of which it admits; their sockets. */
static struct fake_node *fill_node(struct fixture *f, int sockets[FILL])
{
    struct fake_node *d = start_decode(f);
    fake_node_behave(d, FAKE_SILENT);
    for (uint32_t i = 0; i < FILL; i++)
        sockets[i] = open_stream(f, SHORT_STREAM);
    await_submits(d, FILL);
    return d;
}

static void await_waiting(struct fixture *f, uint32_t n)
{
    char want[32];
    snprintf(want, sizeof(want), "\"waiting\":%u}", n);
    bool found = false;
    for (uint32_t i = 0; i < WAIT_MS / 5 && !found; i++) {
        char *page = client_request(f->port, "GET", "/cluster", NULL);
        found = strstr(page, want) != NULL;
        sl_free(page);
        if (!found)
            sl_sleep_us(5000);
    }
    assert_true(found);
}

/* What needs nothing that is lacking does not wait for what does. */
static void one_token_passes(void **state)
{
    struct fixture *f = *state;
    int sockets[FILL];
    struct fake_node *d = fill_node(f, sockets), *p = start_node(f, "p0", true);
    await(f, 1, 1);
    int waits = open_stream(f, "{\"prompt\":\"b\",\"max_tokens\":9,\"stream\":true}");
    await_waiting(f, FILL + 1);
    json_t *json = post_json(f, "/v1/completions", "{\"prompt\":\"c\",\"max_tokens\":1}", 200);
    assert_string_equal(text_of(json), "h");
    json_decref(json);
    assert_int_equal(fake_node_submits(d), FILL);
    expect_page(f, "/metrics", 200, "\nsluice_placement_overtakes_total 1\n");
    close(sockets[0]);
    await_submits(d, FILL + 1); /* now it has its place */
    for (uint32_t i = 1; i < FILL; i++)
        close(sockets[i]);
    close(waits);
    fake_node_stop(p);
    fake_node_stop(d);
}

/* The more urgent is placed first, whenever it came, and the node is told. */
static void priorities(void **state)
{
    struct fixture *f = *state;
    static const int32_t given[] = {5, 0, -5, 0};
    static const uint32_t order[] = {2, 1, 3, 0};
    int sockets[FILL], waiting[4];
    struct fake_node *d = fill_node(f, sockets);
    for (uint32_t i = 0; i < 4; i++) { /* in this order, one after the other */
        char body[128];
        snprintf(body, sizeof(body),
                 "{\"prompt\":\"a\",\"max_tokens\":9,\"stream\":true,\"seed\":%u,\"priority\":%d}",
                 100 + i, given[i]);
        waiting[i] = open_stream(f, body);
        await_waiting(f, FILL + i + 1);
    }
    assert_int_equal(fake_node_submits(d), FILL);
    for (uint32_t i = 0; i < 4; i++) {
        close(sockets[i]);
        await_submits(d, FILL + i + 1);
        assert_int_equal(fake_node_seed(d, 0), 100 + order[i]);
        assert_int_equal(fake_node_last(d).priority, given[order[i]]);
    }
    for (uint32_t i = 4; i < FILL; i++)
        close(sockets[i]);
    for (uint32_t i = 0; i < 4; i++)
        close(waiting[i]);
    fake_node_stop(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_token_passes, setup_patient, teardown),
        cmocka_unit_test_setup_teardown(priorities, setup_patient, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
