/* Stop strings.
 *
 * An Aho-Corasick automaton over bytes (Aho, Corasick 1975). A node is a beginning of some stop
 * string; the state is the longest beginning that the text now ends with. So
 *   - a string is complete when the state, or a node on its chain of suffixes, ends one; the chain is
 *     from longer to shorter, so the first such node is the longest string;
 *   - what has to be held back is as long as the longest node on the chain from which the text
 *     could still go on to a stop string.
 *
 *   strings "ab", "abc", "bd":   root ─a─ a ─b─ ab* ─c─ abc*      suffix(ab) = b
 *                                     └b─ b ─d─ bd*
 *
 * Complete means: at a byte, the earliest one. "ab" and "abc" are never both in question: "ab" is
 * complete first. With min_tokens the text of the first so many pushes goes through the automaton
 * all the same, only that nothing counts as complete; what completes there is given out once nothing
 * longer can come of it.
 *
 * One thread at a time. Text is held in one buffer whose start is what was not given out yet. */
#include "text/stop.h"

#include "base/mem.h"
#include "text/chars.h"

#include <string.h>

struct stop_node {
    uint16_t child;   /* first one; 0: none */
    uint16_t sibling; /* next one; 0: none */
    uint16_t suffix;  /* the longest proper suffix that is a node */
    uint16_t depth;   /* length of this beginning */
    uint16_t held;    /* length of the longest suffix (or itself) that has children */
    int8_t longest;   /* index of the longest string that ends here; -1: none */
    uint8_t byte;
};

#define NODES_MAX (TEXT_STOPS_MAX * TEXT_STOP_BYTES_MAX + 1)
_Static_assert(NODES_MAX <= UINT16_MAX, "node numbers are 16 bits");

struct text_stop {
    struct stop_node *nodes; /* [n_nodes]; 0 is the root */
    uint32_t n_nodes;
    uint16_t lengths[TEXT_STOPS_MAX];
    bool include_stop_str;
    uint32_t min_tokens, n_pushes;
    uint16_t state;
    int index; /* of the string that ended the text; -1: none yet */
    char held[TEXT_STOP_BYTES_MAX];
    size_t n_held;
};

static uint16_t child_of(const struct text_stop *stop, uint16_t node, uint8_t byte)
{
    uint16_t child = stop->nodes[node].child;

    while (child != 0 && stop->nodes[child].byte != byte)
        child = stop->nodes[child].sibling;
    return child;
}

static void add_string(struct text_stop *stop, const char *text, size_t bytes, int index)
{
    uint16_t node = 0;

    for (size_t i = 0; i < bytes; i++) {
        uint16_t child = child_of(stop, node, (uint8_t)text[i]);
        if (child == 0) {
            child = (uint16_t)stop->n_nodes++;
            stop->nodes[child] = (struct stop_node){
                .byte = (uint8_t)text[i],
                .depth = (uint16_t)(i + 1),
                .sibling = stop->nodes[node].child,
                .longest = -1,
            };
            stop->nodes[node].child = child;
        }
        node = child;
    }
    if (stop->nodes[node].longest < 0)
        stop->nodes[node].longest = (int8_t)index;
    stop->lengths[index] = (uint16_t)bytes;
}

/* The state after one more byte. */
static uint16_t next_state(const struct text_stop *stop, uint16_t state, uint8_t byte)
{
    for (;;) {
        uint16_t child = child_of(stop, state, byte);
        if (child != 0 || state == 0)
            return child;
        state = stop->nodes[state].suffix;
    }
}

/* Suffixes in order of depth, so that those they are made of are there. */
static sl_status link_suffixes(struct text_stop *stop)
{
    uint16_t *queue = sl_try_zalloc(stop->n_nodes, sizeof(*queue));
    uint32_t n = 1; /* the root */

    if (queue == NULL)
        return sl_fail(SL_NO_MEMORY, "stop strings: %u nodes", stop->n_nodes);
    for (uint32_t i = 0; i < n; i++) {
        uint16_t node = queue[i];
        for (uint16_t child = stop->nodes[node].child; child != 0;
             child = stop->nodes[child].sibling) {
            struct stop_node *to = &stop->nodes[child];
            to->suffix = node == 0 ? 0 : next_state(stop, stop->nodes[node].suffix, to->byte);
            const struct stop_node *suffix = &stop->nodes[to->suffix];
            if (to->longest < 0)
                to->longest = suffix->longest;
            to->held = to->child != 0 ? to->depth : suffix->held;
            queue[n++] = child;
        }
    }
    sl_free(queue);
    return SL_OK;
}

sl_status text_stop_create(const struct text_stop_args *args, struct text_stop **stop_out)
{
    size_t total = 1;

    if (args->n_strings > TEXT_STOPS_MAX)
        return sl_fail(SL_INVALID, "stop: %u strings; at most %u", args->n_strings, TEXT_STOPS_MAX);
    for (uint32_t i = 0; i < args->n_strings; i++) {
        size_t bytes = args->bytes != NULL ? args->bytes[i] : strlen(args->strings[i]);
        if (bytes == 0 || bytes > TEXT_STOP_BYTES_MAX)
            return sl_fail(SL_INVALID, "stop: a string of %zu bytes; want 1..%u", bytes,
                           TEXT_STOP_BYTES_MAX);
        if (!text_utf8_valid(args->strings[i], bytes, NULL))
            return sl_fail(SL_INVALID, "stop: string %u is not UTF-8", i);
        total += bytes;
    }
    struct text_stop *stop = sl_zalloc(1, sizeof(*stop));
    stop->include_stop_str = args->include_stop_str;
    stop->min_tokens = args->min_tokens;
    stop->index = -1;
    stop->nodes = sl_try_zalloc(total, sizeof(*stop->nodes));
    if (stop->nodes == NULL) {
        text_stop_destroy(stop);
        return sl_fail(SL_NO_MEMORY, "stop strings of %zu bytes", total);
    }
    stop->nodes[0].longest = -1;
    stop->n_nodes = 1;
    for (uint32_t i = 0; i < args->n_strings; i++)
        add_string(stop, args->strings[i],
                   args->bytes != NULL ? args->bytes[i] : strlen(args->strings[i]), (int)i);
    sl_status status = link_suffixes(stop);
    if (status != SL_OK) {
        text_stop_destroy(stop);
        return status;
    }
    *stop_out = stop;
    return SL_OK;
}

void text_stop_destroy(struct text_stop *stop)
{
    if (stop == NULL)
        return;
    sl_free(stop->nodes);
    sl_free(stop);
}

/* Gives out the first n bytes of what is held followed by text. */
static void give(struct text_stop *stop, const char *text, size_t n, struct sl_buf *out)
{
    size_t from_held = n < stop->n_held ? n : stop->n_held;

    sl_buf_add(out, stop->held, from_held);
    memmove(stop->held, stop->held + from_held, stop->n_held - from_held);
    stop->n_held -= from_held;
    sl_buf_add(out, text, n - from_held);
}

bool text_stop_push(struct text_stop *stop, const char *text, size_t bytes, struct sl_buf *out)
{
    if (stop->index >= 0)
        return true;
    if (stop->n_pushes < UINT32_MAX)
        stop->n_pushes++;
    bool counts = stop->n_pushes > stop->min_tokens;

    for (size_t i = 0; i < bytes; i++) {
        stop->state = next_state(stop, stop->state, (uint8_t)text[i]);
        int index = stop->nodes[stop->state].longest;
        if (index < 0 || !counts)
            continue;
        size_t end = stop->n_held + i + 1;
        give(stop, text, stop->include_stop_str ? end : end - stop->lengths[index], out);
        stop->index = index;
        stop->n_held = 0;
        return true;
    }
    /* what is held now is a beginning, shorter than the longest string */
    size_t total = stop->n_held + bytes, keep = stop->nodes[stop->state].held;
    size_t n_held = stop->n_held, gone = total - keep;
    give(stop, text, gone, out);
    size_t taken = gone > n_held ? gone - n_held : 0; /* of text */
    if (bytes > taken)
        memcpy(stop->held + stop->n_held, text + taken, bytes - taken);
    stop->n_held = keep;
    return false;
}

void text_stop_flush(struct text_stop *stop, struct sl_buf *out)
{
    give(stop, "", stop->n_held, out);
    stop->state = 0;
}

int text_stop_index(const struct text_stop *stop)
{
    return stop->index;
}

size_t text_stop_held_bytes(const struct text_stop *stop)
{
    return stop->n_held;
}
