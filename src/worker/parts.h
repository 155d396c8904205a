/* What the files of a worker call of each other. Scheduler thread. */
#ifndef SL_WORKER_PARTS_H
#define SL_WORKER_PARTS_H

#include "worker/internal.h"

/* request.c */
struct worker_request *request_create(struct worker *worker, const Sluice__Submit *submit);
/* The next token of the sequence: of the prompt, delivered before, or sampled. */
void request_take_token(struct worker_request *request, uint32_t token);
void request_move(struct worker *worker, struct worker_request *request, enum request_state state);
/* Its prompt's tokens are still to be scored: it computes all of them, whatever the cache holds. */
bool request_scores(const struct worker_request *request);
/* To the front of the waiting ones of its priority. */
void request_requeue(struct worker *worker, struct worker_request *request);
/* Hashes of all full blocks of the tokens that are known. */
void request_hash(struct worker *worker, struct worker_request *request);
/* The hash of the last full block of what was submitted, as a stream's open carries it; zeros if there is
 * none. */
void request_prefix(const struct worker *worker, const struct worker_request *request,
                    uint8_t prefix_out[TRANSFER_PREFIX_BYTES]);
/* Over: streams are cancelled with `why`, it leaves the tables, and goes when nothing names its
 * blocks any more. May free the request. */
void request_end(struct worker *worker, struct worker_request *request, enum transfer_reason why);
/* Frees an ENDING request that nothing names any more. */
void request_settle(struct worker *worker, struct worker_request *request);
/* Frees everything, whatever names it; for worker_destroy. */
void request_discard_all(struct worker *worker);

/* blocks.c: of every KV class */
/* Its blocks come from a stream. */
bool blocks_land(const struct worker_request *request);
/* The most blocks of class c that a request of n_tokens holds at once. */
uint32_t blocks_most(const struct worker *worker, uint32_t c, uint32_t n_tokens);
/* References and promises for the whole request; false when they do not fit now. */
bool blocks_promise(struct worker *worker, struct worker_request *request);
kv_block_id blocks_take_promised(struct worker *worker, struct worker_request *request, uint32_t c);
/* Releases a block that is in no table any more, or not yet. */
void blocks_give_back(struct worker *worker, struct worker_request *request, uint32_t c,
                      kv_block_id block);
/* Takes all that was promised in the classes without a window. */
void blocks_take_all(struct worker *worker, struct worker_request *request);
/* Blocks for the tokens up to n_tokens that are to be computed; false when a pool has none. */
bool blocks_cover(struct worker *worker, struct worker_request *request, uint32_t n_tokens);
/* Puts full computed blocks into the prefix caches. */
void blocks_insert(struct worker *worker, struct worker_request *request);
/* Lets go what no token after n_computed reads. */
void blocks_slide(struct worker *worker, struct worker_request *request);
void blocks_release(struct worker *worker, struct worker_request *request);

/* admission.c */
void admission_submit(struct worker *worker, const Sluice__Submit *submit);
void admission_part(struct worker *worker, const Sluice__SubmitPart *part);
/* Admits what fits, in order; true if something was. */
bool admission_run(struct worker *worker);

/* step.c */
/* Submits a batch if the engine is idle and there is something to compute; true if so. */
bool step_start(struct worker *worker);
/* Takes the engine's events; true if there were any. */
bool step_poll(struct worker *worker);
/* A token that ends a request? SLUICE__FINISH__FINISH_NONE if not. */
Sluice__Finish step_finish_of(const struct worker_request *request, uint32_t token, uint32_t index);

/* stream.c: both sides */
/* SL_INVALID: another stream has the key; SL_EXHAUSTED: too many of the request; SL_NO_MEMORY. */
sl_status stream_add(struct worker *worker, struct worker_request *request, uint64_t key,
                     uint32_t attempt, const Sluice__Peer *peer, bool source) SL_MUST_USE;
/* Asks for the end; it is dead at once if the transfer layer never knew it. */
void stream_cancel(struct worker *worker, struct worker_stream *stream, enum transfer_reason why);
void stream_dead(struct worker *worker, struct worker_stream *stream);
/* Hands on what could not be told yet. */
void stream_flush(struct worker *worker, struct worker_stream *stream);
/* That of all streams of the request, which may be gone afterwards. */
void stream_flush_request(struct worker *worker, struct worker_request *request);
void stream_flush_all(struct worker *worker);
/* Takes the transfer layer's events; true if there were any. */
bool stream_poll(struct worker *worker);
/* What a failed call to the transfer layer means: true when to try again later. */
bool stream_blocked(struct worker *worker, struct worker_stream *stream, sl_status status);

/* sender.c */
void sender_flush(struct worker *worker, struct worker_stream *stream);
void sender_event(struct worker *worker, struct worker_stream *stream,
                  const struct transfer_event *event);
void sender_redirect(struct worker *worker, const Sluice__Redirect *redirect);

/* receiver.c */
void receiver_flush(struct worker *worker, struct worker_stream *stream);
/* The request has its promise. */
void receiver_admit(struct worker *worker, struct worker_request *request);
/* Ids that were taken but never told go back to the pool. */
void receiver_return_pending(struct worker *worker, struct worker_stream *stream);
void receiver_event(struct worker *worker, struct worker_stream *stream,
                    const struct transfer_event *event);

/* report.c: messages to the coordinator */
/* With the token's logprobs, if the request wants them. */
void report_token(struct worker *worker, const struct worker_request *request, uint32_t index,
                  const struct model_token *token);
/* What the model says of n tokens of the prompt from first_position on. Sent at once: before the tokens. */
void report_scores(struct worker *worker, const struct worker_request *request,
                   uint32_t first_position, const struct model_token *scores, uint32_t n);
void report_admitted(struct worker *worker, const struct worker_request *request);
void report_refused(struct worker *worker, uint64_t id, uint32_t attempt, Sluice__Reason reason,
                    const char *text);
void report_stream_failed(struct worker *worker, uint64_t id, uint32_t attempt,
                          Sluice__Reason reason, bool held, bool source);
/* Sent after the tokens of this turn. */
void report_finished(struct worker *worker, const struct worker_request *request,
                     Sluice__Finish finish, Sluice__Reason reason, const char *text);
void report_events(struct worker *worker);
void report_snapshot(struct worker *worker);
/* Sends what has gathered in this turn. */
void report_flush(struct worker *worker);

/* worker_metrics.c */
void worker_metrics_init(struct worker *worker);
void worker_metrics_gauges(struct worker *worker);

#endif
