/* Reads answers with the parser of the coordinator's tests; see the header. A failure on a thread that is not the
 * test's ends the process, as cmocka does it. */
#include "system/client.h"

#include "system/system.h"
#include "unit/coordinator/fake_node.h"
#include "unit/coordinator/fixture.h"

#include <unistd.h>

#define ANSWER_BYTES_MAX (16u << 20)
#define WAIT_MS          ((uint32_t)(SYSTEM_WAIT_US / SL_MS_US))

char *client_golden_body(const struct golden_model *golden, const struct golden_run *run,
                         uint32_t max_tokens, const char *more)
{
    struct sl_buf body;
    sl_buf_init(&body, 1 << 20);
    sl_buf_add_text(&body, "{\"prompt\":");
    for (uint32_t i = 0; i < run->prompt_tokens; i++)
        sl_buf_add_format(&body, "%c%u", i == 0 ? '[' : ',', golden->prompt[i]);
    sl_buf_add_format(&body,
                      "],\"max_tokens\":%u,\"temperature\":0,\"ignore_eos\":true,"
                      "\"return_token_ids\":true%s}",
                      max_tokens, more);
    char *text = sl_strdup(body.data);
    sl_buf_fini(&body);
    return text;
}

/* A choice of a body or of an event: completions have `text`, chats `message` or `delta`. */
static void take_choice(struct answer *answer, const json_t *choice)
{
    json_int_t index = json_integer_value(json_object_get(choice, "index"));
    assert_in_range(index, 0, ANSWER_CHOICES_MAX - 1);
    const json_t *message = json_object_get(choice, "message");
    if (message == NULL)
        message = json_object_get(choice, "delta");
    const json_t *text =
        message != NULL ? json_object_get(message, "content") : json_object_get(choice, "text");
    if (json_is_string(text))
        sl_buf_add(&answer->texts[index], json_string_value(text), json_string_length(text));
    const json_t *ids = json_object_get(choice, "token_ids");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        assert_true(answer->n_tokens[index] < ANSWER_TOKENS_MAX);
        answer->tokens[index][answer->n_tokens[index]++] =
            (uint32_t)json_integer_value(json_array_get(ids, i));
    }
    answer->n_finished += json_is_string(json_object_get(choice, "finish_reason"));
}

static void take_body(struct answer *answer, const json_t *body)
{
    const json_t *choices = json_object_get(body, "choices");
    for (size_t i = 0; i < json_array_size(choices); i++)
        take_choice(answer, json_array_get(choices, i));
    const json_t *details =
        json_object_get(json_object_get(body, "usage"), "prompt_tokens_details");
    if (details != NULL)
        answer->cached_tokens =
            (uint32_t)json_integer_value(json_object_get(details, "cached_tokens"));
    answer->error |= json_object_get(body, "error") != NULL;
}

static void take_event(void *arg, const char *event, size_t n)
{
    struct answer *answer = arg;
    assert_false(answer->whole || answer->error); /* nothing follows these */
    if (n >= 6 && memcmp(event, "[DONE]", 6) == 0) {
        answer->whole = true;
        return;
    }
    json_t *json = json_loadb(event, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    if (json == NULL)
        fail_msg("not JSON: %.*s", (int)n, event);
    take_body(answer, json);
    json_decref(json);
}

static void begin(uint16_t port, const char *path, const char *body, int *fd_out)
{
    char head[256];
    *fd_out = client_connect(port);
    snprintf(head, sizeof(head),
             "POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
             "application/json\r\n"
             "Content-Length: %zu\r\n\r\n",
             path, strlen(body));
    client_send(*fd_out, head);
    client_send(*fd_out, body);
}

void client_ask(uint16_t port, const char *path, const char *body, _Atomic uint32_t *begun,
                struct answer *out)
{
    int fd;
    struct sl_buf raw;
    memset(out, 0, sizeof(*out));
    for (uint32_t i = 0; i < ANSWER_CHOICES_MAX; i++) {
        sl_buf_init(&out->texts[i], ANSWER_BYTES_MAX);
        sl_buf_add_text(&out->texts[i], "");
    }
    sl_buf_init(&raw, ANSWER_BYTES_MAX);
    begin(port, path, body, &fd);
    if (begun != NULL && client_read(fd, &raw, "\ndata: ", WAIT_MS))
        atomic_fetch_add(begun, 1);
    if (!client_read(fd, &raw, NULL, WAIT_MS) || raw.bytes == 0)
        fail_msg("no answer to %s %s: %s", path, body, raw.bytes > 0 ? raw.data : "");
    close(fd);
    out->status = client_status(raw.data);
    if (strstr(raw.data, "text/event-stream") != NULL) {
        stream_events(&raw, take_event, out);
    } else {
        json_t *json =
            json_loads(client_body(raw.data), JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
        if (json == NULL)
            fail_msg("not JSON: %s", raw.data);
        take_body(out, json);
        out->whole = out->status == 200 && !out->error;
        json_decref(json);
    }
    sl_buf_fini(&raw);
}

void client_leave(uint16_t port, const char *path, const char *body, bool at_once)
{
    int fd;
    struct sl_buf raw;
    sl_buf_init(&raw, ANSWER_BYTES_MAX);
    begin(port, path, body, &fd);
    if (!at_once && !client_read(fd, &raw, "\ndata: ", WAIT_MS))
        fail_msg("no event of %s %s: %s", path, body, raw.bytes > 0 ? raw.data : "");
    close(fd);
    sl_buf_fini(&raw);
}

void answer_fini(struct answer *answer)
{
    for (uint32_t i = 0; i < ANSWER_CHOICES_MAX; i++)
        sl_buf_fini(&answer->texts[i]);
}

void answer_expect(const struct answer *answer, uint32_t index, const struct golden_run *run)
{
    if (!answer->whole)
        fail_msg("status %d after %u of %u tokens", answer->status, answer->n_tokens[index],
                 run->n_tokens);
    assert_int_equal(answer->n_tokens[index], run->n_tokens);
    assert_memory_equal(answer->tokens[index], run->tokens, run->n_tokens * sizeof(uint32_t));
}

void answer_expect_same(const struct answer *answer, const struct answer *other, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct sl_buf *text = &answer->texts[i], *same = &other->texts[i];
        assert_int_equal(text->bytes, same->bytes);
        assert_memory_equal(text->data, same->data, text->bytes);
    }
}

bool answer_expect_beginning(const struct answer *answer, const struct golden_run *run)
{
    if (answer->whole) {
        answer_expect(answer, 0, run);
        return true;
    }
    assert_true(answer->error);
    assert_true(answer->n_tokens[0] <= run->n_tokens);
    assert_memory_equal(answer->tokens[0], run->tokens, answer->n_tokens[0] * sizeof(uint32_t));
    return false;
}
