/* Which pages may talk to the server, and which names stand for this machine. */
#include "coordinator/origin.h"

#include "support/support.h"

static struct origins *origins_of(const char *list)
{
    struct origins *origins;
    assert_ok(origins_create(list, &origins));
    return origins;
}

struct judged {
    const char *origin, *host;
    enum origin whose;
};

static void expect_all(const char *list, const struct judged *cases, size_t n)
{
    struct origins *origins = origins_of(list);
    for (size_t i = 0; i < n; i++) {
        enum origin whose = origins_judge(origins, cases[i].origin, cases[i].host);
        if (whose != cases[i].whose)
            fail_msg("Origin %s, Host %s: %d; want %d", cases[i].origin, cases[i].host, whose,
                     cases[i].whose);
    }
    origins_destroy(origins);
}

static void own_pages(void **state)
{
    (void)state;
    static const struct judged cases[] = {
        {NULL, "127.0.0.1:8000", ORIGIN_OWN},
        {NULL, NULL, ORIGIN_OWN},
        {"http://127.0.0.1:8000", "127.0.0.1:8000", ORIGIN_OWN},
        {"http://LocalHost:8000", "localhost:8000", ORIGIN_OWN},
        {"http://[::1]:8000", "[::1]:8000", ORIGIN_OWN},
        {"https://llm.example.com", "llm.example.com", ORIGIN_OWN}, /* by a proxy with TLS */
        {"https://llm.example.com", "llm.example.com:443", ORIGIN_OWN},
        {"http://llm.example.com:80", "llm.example.com", ORIGIN_OWN},
        {"http://llm.example.com", "llm.example.com:80", ORIGIN_OWN},
        {"http://localhost.:8000", "localhost.:8000", ORIGIN_OWN},
        {"http://localhost:8000", "localhost.:8000", ORIGIN_FOREIGN}, /* to browsers they are two */
        {"http://127.0.0.1", "127.0.0.1:443", ORIGIN_FOREIGN},        /* another scheme's port */
        {"https://127.0.0.1", "127.0.0.1:80", ORIGIN_FOREIGN},
        {"http://127.0.0.1:8001", "127.0.0.1:8000", ORIGIN_FOREIGN},
        {"http://localhost:8000", "127.0.0.1:8000", ORIGIN_FOREIGN},
        {"http://127.0.0.1", "127.0.0.1:8000", ORIGIN_FOREIGN},
        {"http://127.0.0.1:8000x", "127.0.0.1:8000", ORIGIN_FOREIGN},
        {"http://127.0.0.1:800", "127.0.0.1:8000", ORIGIN_FOREIGN},
        {"https://evil.example", "127.0.0.1:8000", ORIGIN_FOREIGN},
        {"https://evil.example", NULL, ORIGIN_FOREIGN},
        {"null", "127.0.0.1:8000", ORIGIN_FOREIGN},
        {"null", "null", ORIGIN_FOREIGN},
        {"", "", ORIGIN_FOREIGN},
        {"127.0.0.1:8000", "127.0.0.1:8000", ORIGIN_FOREIGN},
        {"chrome-extension://127.0.0.1:8000", "127.0.0.1:8000", ORIGIN_FOREIGN},
    };
    expect_all(NULL, cases, sizeof(cases) / sizeof(cases[0]));
    expect_all("", cases, sizeof(cases) / sizeof(cases[0]));
    expect_all("http://other.example", cases, sizeof(cases) / sizeof(cases[0]));
}

static void pages_of_the_list(void **state)
{
    (void)state;
    static const struct judged cases[] = {
        {"https://chat.example.com", "127.0.0.1:8000", ORIGIN_ALLOWED},
        {"https://CHAT.example.com:443", "127.0.0.1:8000", ORIGIN_ALLOWED},
        {"http://localhost:5173", "localhost:8000", ORIGIN_ALLOWED},
        {"http://localhost:8000", "localhost:8000", ORIGIN_OWN},
        {"http://chat.example.com", "127.0.0.1:8000", ORIGIN_FOREIGN}, /* the scheme counts here */
        {"https://chat.example.com.evil.example", "127.0.0.1:8000", ORIGIN_FOREIGN},
        {"https://chat.example.com:8443", "127.0.0.1:8000", ORIGIN_FOREIGN},
        {"null", "127.0.0.1:8000", ORIGIN_FOREIGN},
    };
    expect_all("https://chat.example.com,http://localhost:5173", cases,
               sizeof(cases) / sizeof(cases[0]));
    static const struct judged all[] = {{"null", "a", ORIGIN_ALLOWED},
                                        {"https://evil.example", "a", ORIGIN_ALLOWED},
                                        {"http://a", "a", ORIGIN_OWN}};
    expect_all("*", all, 3);
    expect_all("http://x,*", all, 3);
}

static void names_of_this_machine(void **state)
{
    (void)state;
    static const char *const known[] = {
        "127.0.0.1",
        "127.0.0.1:8000",
        "127.0.0.1.:8000",
        "127.8.8.8",
        "10.1.2.3:80",
        "0.0.0.0:8000",
        "[::1]",
        "[::1]:8000",
        "[::]:8000",
        "[fe80::1]:8000",
        "[::ffff:127.0.0.1]",
        "[::ffff:127.0.0.1]:8000",
        "[::FFFF:7f00:1]:8000",
        "[2001:db8::7]:1",
        "localhost",
        "localhost:",
        "LOCALHOST:8000",
        "localhost.",
        "localhost.:8000",
        "a.localhost:1",
        "a.b.localhost.:1",
        "llm.lan:8000",
        "LLM.lan",
        "llm.lan.:8000",
    };
    static const char *const unknown[] = {
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "xlocalhost",
        "localhost..",
        "localhost.localdomain",
        "ip6-localhost",
        "ip6-localhost:8000",
        "ip6-loopback",
        "localhost6",
        "",
        ".",
        ":8000",
        "127.0.0.1.nip.io",
        "127.0.0.1x",
        "127.1", /* browsers write it out */
        "2130706433:8000",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "256.1.1.1",
        "1.2.3",
        "::1", /* without brackets it is none of an URL */
        "::1:8000",
        "::ffff:127.0.0.1",
        "[::1",
        "[]",
        "[x]:8000",
        "[127.0.0.1]",
        "[fe80::1%eth0]:8000",
        "[::1].evil.example",
        "[::1]evil.example:8000",
        "[::ffff:127.0.0.1].evil.example",
        "localhost:8000x",
        "localhost:80:80",
        "127.0.0.1:80@evil.example",
        "evil.example/.localhost",
        "evil.example@localhost",
        "evil.example .localhost",
        "xllm.lan",
        "llm.lan.x",
    };
    struct origins *origins = origins_of("http://llm.lan:8000");
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (!origins_know_host(origins, known[i]))
            fail_msg("%s is not known", known[i]);
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
        if (origins_know_host(origins, unknown[i]))
            fail_msg("%s is known", unknown[i]);
    assert_true(origins_know_host(origins, NULL));
    char *longest = sl_zalloc(5001, 1);
    memset(longest, 'a', 5000);
    assert_false(origins_know_host(origins, longest));
    longest[0] = '[';
    assert_false(origins_know_host(origins, longest));
    sl_free(longest);
    origins_destroy(origins);
    origins = origins_of("*");
    assert_true(origins_know_host(origins, "evil.example"));
    origins_destroy(origins);
}

static void lists_that_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "chat.example.com",
        "https://",
        "https://a/",
        "https://a/b",
        "http://:80",
        "http://a b",
        "https://*.a.b",
        "http://a,,http://b",
        " http://a",
        "ftp://a",
        "http://u@a",
        "http://a:b",
        "http://a:80:80",
        "http://[::1",
        "http://[::1]x",
        "null",
        "**",
    };
    struct origins *origins;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        sl_status status = origins_create(wrong[i], &origins);
        if (status != SL_INVALID || strstr(sl_error(), "--allow-origin: \"") == NULL)
            fail_msg("%s: %s", wrong[i], sl_status_name(status));
    }
    char list[2000] = "";
    size_t n = 0;
    for (unsigned i = 0; i < ORIGINS_MAX; i++)
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%shttp://a%u", i > 0 ? "," : "", i);
    origins_destroy(origins_of(list));
    snprintf(list + n, sizeof(list) - n, ",http://more");
    assert_fails(origins_create(list, &origins), SL_INVALID, "over 64 origins");
    memset(list, 'a', 400);
    memcpy(list, "http://", 7);
    list[400] = '\0';
    assert_fails(origins_create(list, &origins), SL_INVALID, "want * or origins");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_pages),
        cmocka_unit_test(pages_of_the_list),
        cmocka_unit_test(names_of_this_machine),
        cmocka_unit_test(lists_that_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
