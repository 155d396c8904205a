/* Messages that come early.
 *
 * P samples the first token and says so, with the token's logprobs. D has the token from the seal, without them, and
 * repeats it, so that a P that is lost behind the seal loses nothing. The two come over two streams: where D's
 * message overtakes P's, taking it would leave the first token without logprobs. So for a request that wants them
 * D's runs, and its end, wait while P's are on their way; they are kept as bytes, since the messages they came in are
 * of several requests. (Scores of the prompt have no such race: who wants them is served by one node.)
 *
 *   D: token 0 (no logprobs), 1, 2 … ──► kept ──┐
 *   P: token 0 with logprobs ───────────────────┴──► taken: token 0 of P, then 1, 2 …
 *
 * When P is lost instead, or fails, nothing of D's was taken yet, and the request is placed again as a whole: what was
 * kept is dropped where the placement ends. The coordinator's loop. */
#include "coordinator/early.h"

#include "base/log.h"
#include "proto/message.h"

#include <string.h>

#define MESSAGE_BYTES_MAX 2048u /* of one run of one token, or an end, with their texts */

static bool keep(struct request *request, const Sluice__NodeMessage *message)
{
    uint8_t bytes[MESSAGE_BYTES_MAX];
    uint32_t n = (uint32_t)rpc_node_message_pack(message, bytes, sizeof(bytes));
    if (n == 0 || request->early.bytes + sizeof(n) + n > EARLY_BYTES_MAX)
        return false;
    sl_buf_add(&request->early, &n, sizeof(n));
    sl_buf_add(&request->early, bytes, n);
    return true;
}

static bool is_from_d(const struct request *request, const struct registry_node *node,
                      uint32_t attempt)
{
    const struct flow *flow = &request->flow;
    return flow->mode == FLOW_PAIR && flow->p != 0 && node->join == flow->d &&
           attempt == flow->attempt;
}

static bool lacks_logprobs(const struct request *request, const Sluice__TokenRun *run)
{
    bool is_repeat = run->first_index + run->n_tokens <= request->flow.next_index;
    return !is_repeat && request->group->params.logprobs >= 0 && run->n_logprobs < run->n_tokens;
}

bool early_keeps_run(struct request *request, const struct registry_node *node,
                     const Sluice__TokenRun *run)
{
    if (!is_from_d(request, node, run->attempt) ||
        (request->early.bytes == 0 && !lacks_logprobs(request, run)))
        return false;
    Sluice__TokenRun *list[] = {(Sluice__TokenRun *)(uintptr_t)run};
    Sluice__TokenRuns runs = SLUICE__TOKEN_RUNS__INIT;
    runs.n_runs = 1;
    runs.runs = list;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_TOKENS;
    message.tokens = &runs;
    return keep(request, &message);
}

bool early_keeps_finished(struct request *request, const struct registry_node *node,
                          const Sluice__Finished *finished)
{
    if (!is_from_d(request, node, finished->attempt) || request->early.bytes == 0)
        return false;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_FINISHED;
    message.finished = (Sluice__Finished *)(uintptr_t)finished;
    return keep(request, &message);
}

void early_take(struct coordinator *c, uint64_t id, uint64_t now_us)
{
    struct request *request = requests_find(c, id);
    if (request == NULL || request->early.bytes == 0)
        return;
    struct sl_buf early = request->early;
    flow_node d = request->flow.d;
    sl_buf_init(&request->early, EARLY_BYTES_MAX);
    for (size_t at = 0; at < early.bytes;) {
        struct registry_node *node = registry_find(&c->registry, d);
        Sluice__NodeMessage *message;
        uint32_t n;
        memcpy(&n, early.data + at, sizeof(n));
        at += sizeof(n);
        if (rpc_node_message_unpack((const uint8_t *)early.data + at, n, &message) != SL_OK) {
            sl_warn("early_message_lost", "error=\"%s\"", sl_error()); /* the next one is a gap */
        } else {
            if (node != NULL)
                nodes_message(c, node, message, now_us);
            rpc_node_message_free(message);
        }
        at += n;
    }
    sl_buf_fini(&early);
}
