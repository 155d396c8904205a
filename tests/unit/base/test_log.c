/* Log lines, read back from standard error. */
#include "base/log.h"

#include "base/clock.h"
#include "base/thread.h"
#include "support/support.h"

#include <fcntl.h>

static char out[1 << 20];
static int file, saved;

static void catch_begin(void)
{
    char path[] = "/tmp/sluice-log-XXXXXX";
    file = mkstemp(path);
    assert_true(file >= 0);
    (void)unlink(path);
    saved = dup(STDERR_FILENO);
    dup2(file, STDERR_FILENO);
}

static char *catch_end(void)
{
    dup2(saved, STDERR_FILENO);
    close(saved);
    ssize_t n = pread(file, out, sizeof(out) - 1, 0);
    close(file);
    assert_true(n >= 0);
    out[n] = '\0';
    return out;
}

static size_t count_lines(const char *text, const char *part)
{
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, part)) != NULL; p++)
        n++;
    return n;
}

static void test_line(void **state)
{
    (void)state;
    catch_begin();
    sl_info("kv_sent", "req=%s blocks=%u", "r1", 3);
    sl_log_set_node("d0");
    sl_warn("link_slow", "");
    char *text = catch_end();
    unsigned year, micros;
    char rest[200];
    assert_int_equal(
        sscanf(text, "ts=%4u-%*2u-%*2uT%*2u:%*2u:%*2u.%6uZ %199[^\n]", &year, &micros, rest), 3);
    assert_true(year >= 2024);
    assert_string_equal(rest, "level=info event=kv_sent req=r1 blocks=3");
    assert_non_null(strstr(text, " level=warn event=link_slow node=d0\n"));
    sl_log_set_node("");
}

/* What was quoted inside of a value does not end it, nor does it make fields. */
static void test_quotes(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"bind \"x\": none", "error=\"bind 'x': none\" n=3\n"},
        {"\"x\"", "error=\"'x'\" n=3\n"},
        {"--id \"a b=c\"; want \"d\"", "error=\"--id 'a b=c'; want 'd'\" n=3\n"},
        {"\\\"said\\\"", "error=\"\\\"said\\\"\" n=3\n"}, /* by who escaped it */
        {"", "error=\"\" n=3\n"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        catch_begin();
        sl_log_write(&(struct sl_log_site){0}, SL_LOG_INFO, "x", "error=\"%s\" n=%d", cases[i][0],
                     3);
        sl_log_write(&(struct sl_log_site){0}, SL_LOG_INFO, "y", "n=%d error=\"%s\"", 3,
                     cases[i][0]);
        char *text = catch_end();
        assert_non_null(strstr(text, cases[i][1]));
        char *last = sl_asprintf(" event=y n=3 %.*s\n", (int)strlen(cases[i][1]) - 5, cases[i][1]);
        assert_non_null(strstr(text, last));
        sl_free(last);
    }
}

/* UTC to the microsecond, wherever the process runs. */
static void test_time(void **state)
{
    (void)state;
    setenv("TZ", "FAR-11:30", 1);
    tzset();
    for (int i = 0; i < 20; i++) {
        catch_begin();
        double before = sl_wall_seconds();
        sl_log_write(&(struct sl_log_site){0}, SL_LOG_INFO, "now", "");
        double after = sl_wall_seconds();
        struct tm utc = {0};
        const char *rest = strptime(catch_end(), "ts=%Y-%m-%dT%H:%M:%S", &utc);
        assert_non_null(rest);
        double at = (double)timegm(&utc) + strtod(rest, NULL);
        assert_true(at > before - 2e-6 && at < after + 1e-6);
        sl_sleep_us(1700);
    }
    unsetenv("TZ");
    tzset();
}

static void test_levels(void **state)
{
    (void)state;
    catch_begin();
    sl_debug("hidden", "");
    sl_log_set_level(SL_LOG_DEBUG);
    sl_debug("shown", "");
    sl_trace("hidden", "");
    sl_log_set_level(SL_LOG_INFO);
    char *text = catch_end();
    assert_int_equal(count_lines(text, "hidden"), 0);
    assert_int_equal(count_lines(text, "level=debug event=shown\n"), 1);
}

static void test_no_forged_lines(void **state)
{
    (void)state;
    catch_begin();
    sl_info("request", "path=%s", "a\nlevel=error event=forged\r");
    char *text = catch_end();
    assert_int_equal(count_lines(text, "\n"), 1);
    assert_non_null(strstr(text, "path=a level=error event=forged \n"));
}

static void test_long_line_is_cut(void **state)
{
    (void)state;
    char *value = sl_zalloc(1, 10001);
    memset(value, 'v', 10000);
    catch_begin();
    sl_info("long", "value=%s", value);
    char *text = catch_end();
    assert_in_range(strlen(text), 4000, 4096);
    assert_string_equal(text + strlen(text) - 5, "v...\n");
    sl_free(value);
}

static void say(int i)
{
    sl_info("burst", "i=%d", i);
}

static void test_rate(void **state)
{
    (void)state;
    catch_begin();
    for (int i = 0; i < 3 * SL_LOG_RATE_MAX; i++)
        say(i);
    sl_info("other_site", "");
    usleep(1100000);
    say(-1);
    say(-2);
    char *text = catch_end();
    assert_in_range(count_lines(text, "event=burst"), SL_LOG_RATE_MAX + 2, 2 * SL_LOG_RATE_MAX + 2);
    assert_int_equal(count_lines(text, "other_site"), 1);
    char *last = strstr(text, "i=-1");
    assert_non_null(last);
    while (last > text && last[-1] != '\n')
        last--;
    unsigned suppressed = 0;
    assert_int_equal(sscanf(strstr(last, "suppressed="), "suppressed=%u", &suppressed), 1);
    assert_in_range(suppressed, SL_LOG_RATE_MAX, 2 * SL_LOG_RATE_MAX);
    assert_int_equal(count_lines(text, "suppressed="), 1); /* told once */
}

static void log_some(void *arg)
{
    for (int i = 0; i < 20; i++)
        sl_info("from_thread", "id=%d", *(int *)arg);
}

static void test_threads(void **state)
{
    (void)state;
    struct sl_thread threads[2] = {0};
    int ids[2] = {1, 2};
    catch_begin();
    for (int i = 0; i < 2; i++)
        assert_ok(sl_thread_start(&threads[i], "logger", log_some, &ids[i]));
    for (int i = 0; i < 2; i++)
        sl_thread_join(&threads[i]);
    char *text = catch_end();
    assert_int_equal(count_lines(text, " level=info event=from_thread id=1\n"), 20);
    assert_int_equal(count_lines(text, " level=info event=from_thread id=2\n"), 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_quotes),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_no_forged_lines),
        cmocka_unit_test(test_long_line_is_cut),
        cmocka_unit_test(test_rate),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
