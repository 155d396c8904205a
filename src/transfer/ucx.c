/* UCX active messages: the only file that calls UCX, beside canary.c.
 *
 *   control   AM id 1, EAGER, header = the frame, data = our worker address with a hello
 *   offer     AM id 2, always RNDV, header = the frame, data = the piece, straight out of the pool;
 *             the callback posts the receive straight into the pool, or returns a refusing status
 *
 * What is known about UCX 1.13.1 and shapes this (docs/transfer.md section 3): a refusing status of the
 * callback reaches the sender's completion unchanged, so reasons travel as status codes that UCX itself
 * does not use; a receive cannot be cancelled and must have the offered length; a completed send has not
 * landed; after a forced close the callbacks still come, so a connection is gone only when its close and
 * every request on it have called back. Requests own the header, which UCX 1.13 reads until completion.
 *
 * Every message asks for the reply endpoint: its handle is the `route` by which the session knows the
 * sender's connection. UCX pairs the endpoints of two workers by count, and then the route is this side's
 * own endpoint. That matters: a forced close ends the receives of its own endpoint only, so without the
 * pair a receive posted for a stopped peer would never call back (seen; test_ucx.c, case_long_stop). The
 * side that has made fewer endpoints makes up for it (session.c).
 *
 * An address that others get from here is the process (process.h) and UCX's worker address behind it.
 *
 * What never calls back. A forced close purges its requests only when every lane of the endpoint has been
 * flushed, and over shared memory the flush waits for room in the ring that leads to the peer, whatever
 * it was asked to cancel: of a peer that is stopped, or was killed while its ring was full, nothing
 * comes back. Sends are abandoned ABANDON_US after the close. Receives write, so they wait for the
 * process at the other end to be gone: see abandon_due, and docs/decisions/0020.
 *
 * What breaks the ring of shared memory. A process that is killed while it writes into our ring can leave
 * it unreadable for good (canary.c). So whenever a connection with a process of this machine ends, a
 * canary is sent through the ring; when it does not come although that process is gone, or for longer
 * than a peer may be stopped, this side is deaf, and says so: only another process can take its place.
 *
 * Error mode PEER always. Nothing of the session layer runs a close inside a callback of UCX: the error
 * handler only notes, closes are put off, and progress() goes on with both when UCX has returned.
 * Settings are put into the environment before the configuration is read, and never
 * over what the user has set there. Runs on one thread at a time. */
#include "base/address.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "transfer/canary.h"
#include "transfer/frame.h"
#include "transfer/process.h"
#include "transfer/transport.h"

#include <errno.h>
#include <net/if.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucp/api/ucp.h>
#include <ucs/config/global_opts.h>
#include <ucs/debug/debug.h>

#define AM_CONTROL      1
#define AM_OFFER        2
#define AM_CANARY       3
#define STATUS_REFUSED  (-89) /* minus a reason: -90 … -99, which UCX leaves unused */
#define PROGRESS_MAX    64    /* calls of ucp_worker_progress in a turn */
#define WHY_BYTES       80
#define UNUSED_CLOSE_US (2 * SL_SECOND_US)
#define ABANDON_US      SL_SECOND_US /* after a forced close; callbacks come within 1 ms, or stay away */
#define LOOK_US         (100 * SL_MS_US) /* between two looks at the process of a closed connection */
/* How long a canary takes at most: when who may hold the ring is gone, and when that one lives (it may be stopped in
 * the middle, and is ejected and killed before). And the turns of progress at least: this thread may stand still. */
#define CANARY_US      (2 * SL_SECOND_US)
#define CANARY_LONG_US (12 * SL_SECOND_US)
#define CANARY_TURNS   100
#define CANARY_TURN_US (10 * SL_MS_US)

#ifdef __SANITIZE_ADDRESS__
/* UCX 1.13 forgets a few bytes when a connection to a dead process's shared memory fails. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libuct.so\n";
}
#endif

struct ucx;

enum request_kind { REQUEST_CONTROL, REQUEST_SEND, REQUEST_RECEIVE };

struct request {
    enum request_kind kind;
    struct transport_connection *connection;
    void *op;
    uint8_t frame[FRAME_BYTES_MAX];
    size_t frame_size;
    void *data;        /* control: a copy; else NULL */
    const void *bytes; /* what is sent: data, or a piece in the pool */
    size_t n_bytes;
    enum transfer_reason reason;
    struct request *next;  /* of the free list, the done list or the outbox */
    struct request *older; /* of all there are */
    bool pending;          /* at UCX: its callback will come … */
    bool abandoned;        /* … or not, and the sink has been told already */
};

struct transport_connection {
    struct ucx *ucx;
    ucp_ep_h endpoint;
    void *user;
    uint64_t route;
    uint32_t outstanding;
    uint32_t n_abandoned; /* of them: told, but UCX has not given them back */
    bool lost, told, closing, close_due, closed; /* closed: UCX has called back */
    bool doubted;                                /* that its process left our ring whole */
    bool abandoned;     /* its sends, and that UCX says it is closed, are waited for no more */
    uint64_t close_us;  /* not before; for those that nobody uses */
    uint64_t closed_us; /* when UCX was asked to */
    struct process process;
    uint64_t looked_us; /* last, whether the process is gone */
    uint64_t gone_us;   /* when it was seen to be; 0: not yet */
    char why[WHY_BYTES];
    struct transport_connection *next;
};

struct ucx {
    struct transport transport;
    struct transport_sink sink;
    ucp_context_h context;
    ucp_worker_h worker;
    void *address; /* the process, then UCX's */
    size_t address_bytes;
    struct process process;
    int fd;
    struct transport_connection *connections;
    struct request *requests; /* all */
    struct request *free_requests;
    struct request *done, **done_end;     /* completed, not told yet */
    struct request *outbox, **outbox_end; /* asked for inside a callback, not sent yet */
    bool moved;
    uint64_t empty_us; /* when UCX last had nothing to do */
    uint64_t quiet_us; /* that it must have had nothing to do after a process was gone */
    bool inside;       /* of ucp_worker_progress */
    bool stopping;     /* nothing waits any more */

    struct canary *canary; /* made when it is first needed */
    bool no_ring;          /* it could not be: there is no shared memory */
    bool deaf;
    uint64_t canary_number; /* of the one that is out … */
    uint64_t canary_us;     /* … since when; 0: none is */
    uint32_t canary_turns;
    struct process suspected; /* for whose sake */
    struct process doubted;   /* is next … */
    uint64_t doubt_us;        /* … since when; 0: nobody */
};

static struct ucx *of(struct transport *transport)
{
    return (struct ucx *)transport;
}

/* ---- requests ---- */

static struct request *request_take(struct ucx *ucx, enum request_kind kind,
                                    struct transport_connection *connection, void *op)
{
    struct request *request = ucx->free_requests;
    if (request != NULL) {
        ucx->free_requests = request->next;
    } else {
        request = sl_zalloc(1, sizeof(*request));
        request->older = ucx->requests;
        ucx->requests = request;
    }
    *request =
        (struct request){.kind = kind, .connection = connection, .op = op, .older = request->older};
    connection->outstanding++;
    return request;
}

static void request_give(struct ucx *ucx, struct request *request)
{
    request->connection->outstanding--;
    sl_free(request->data);
    request->data = NULL;
    request->next = ucx->free_requests;
    ucx->free_requests = request;
}

static enum transfer_reason reason_of(ucs_status_t status)
{
    int refused = STATUS_REFUSED - (int)status;
    if (status == UCS_OK)
        return 0;
    return refused > 0 && refused < TRANSFER_REASON_COUNT ? (enum transfer_reason)refused
                                                          : TRANSFER_LOST;
}

static ucs_status_t status_of(enum transfer_reason reason)
{
    return (ucs_status_t)(STATUS_REFUSED - (int)reason);
}

/* Tells the sink. Never inside a callback of UCX: those also run within calls of ours (a close). */
static void request_done(struct ucx *ucx, struct request *request)
{
    enum request_kind kind = request->kind;
    void *op = request->op;
    enum transfer_reason reason = request->reason;
    ucx->moved = true;
    if (request->abandoned) {
        request->connection->n_abandoned--;
        request_give(ucx, request);
        return;
    }
    request_give(ucx, request);
    if (kind == REQUEST_SEND)
        ucx->sink.sent(ucx->sink.arg, op, reason);
    else if (kind == REQUEST_RECEIVE)
        ucx->sink.landed(ucx->sink.arg, op, reason);
}

static void request_defer(struct ucx *ucx, struct request *request)
{
    request->next = NULL;
    *ucx->done_end = request;
    ucx->done_end = &request->next;
}

static void note_lost(struct transport_connection *connection, const char *what,
                      ucs_status_t status)
{
    if (connection->lost)
        return;
    connection->lost = true;
    snprintf(connection->why, sizeof(connection->why), "%s: %s", what, ucs_status_string(status));
}

static void on_send_done(void *ucx_request, ucs_status_t status, void *arg)
{
    struct request *request = arg;
    struct transport_connection *connection = request->connection;
    ucp_request_free(ucx_request);
    request->pending = false;
    request->reason = reason_of(status);
    if (request->reason == TRANSFER_LOST)
        note_lost(connection, "send", status);
    request_defer(connection->ucx, request);
}

static void on_receive_done(void *ucx_request, ucs_status_t status, size_t length, void *arg)
{
    (void)length; /* equal to what was posted: UCX aborts otherwise, and the sink has compared */
    struct request *request = arg;
    ucp_request_free(ucx_request);
    request->pending = false;
    request->reason = status == UCS_OK ? 0 : TRANSFER_LOST;
    request_defer(request->connection->ucx, request);
}

/* ---- what comes in ---- */

static uint64_t route_of(const ucp_am_recv_param_t *param)
{
    if ((param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) == 0)
        return 0;
    return (uint64_t)(uintptr_t)param->reply_ep;
}

static ucs_status_t on_control(void *arg, const void *header, size_t header_bytes, void *data,
                               size_t data_bytes, const ucp_am_recv_param_t *param)
{
    struct ucx *ucx = arg;
    ucx->moved = true;
    if (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)
        return status_of(TRANSFER_MISBEHAVED); /* control is eager */
    ucx->sink.control(ucx->sink.arg, route_of(param), header, header_bytes, data, data_bytes);
    return UCS_OK;
}

static ucs_status_t on_canary(void *arg, const void *header, size_t header_bytes, void *data,
                              size_t data_bytes, const ucp_am_recv_param_t *param)
{
    (void)data, (void)data_bytes, (void)param;
    struct ucx *ucx = arg;
    uint64_t number = 0;
    if (header_bytes == sizeof(number))
        memcpy(&number, header, sizeof(number));
    if (number == ucx->canary_number)
        ucx->canary_us = 0;
    return UCS_OK;
}

static struct transport_connection *connection_of_route(struct ucx *ucx, uint64_t route)
{
    struct transport_connection *connection = ucx->connections;
    while (connection != NULL && (connection->closing || connection->route != route))
        connection = connection->next;
    return connection;
}

static void post_receive(struct ucx *ucx, struct transport_connection *connection, void *data,
                         size_t length, void *to, void *op)
{
    struct request *request = request_take(ucx, REQUEST_RECEIVE, connection, op);
    ucp_request_param_t param = {
        .op_attr_mask =
            UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
        .cb.recv_am = on_receive_done,
        .user_data = request,
    };
    void *result = ucp_am_recv_data_nbx(ucx->worker, data, to, length, &param);
    request->pending = UCS_PTR_IS_PTR(result);
    if (request->pending)
        return;
    request->reason = reason_of(UCS_PTR_RAW_STATUS(result));
    request_defer(ucx, request);
}

static ucs_status_t on_offer(void *arg, const void *header, size_t header_bytes, void *data,
                             size_t length, const ucp_am_recv_param_t *param)
{
    struct ucx *ucx = arg;
    ucx->moved = true;
    uint64_t route = route_of(param);
    bool rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
    struct transport_connection *connection = connection_of_route(ucx, route);
    void *to = NULL, *op = NULL;
    enum transfer_reason reason =
        ucx->sink.offer(ucx->sink.arg, connection == NULL ? 0 : route, header, header_bytes, length,
                        rendezvous, &to, &op);
    if (reason != 0)
        return rendezvous ? status_of(reason) : UCS_OK;
    SL_ASSERT(rendezvous && connection != NULL && to != NULL);
    post_receive(ucx, connection, data, length, to, op);
    return UCS_INPROGRESS;
}

static void on_endpoint_error(void *arg, ucp_ep_h endpoint, ucs_status_t status)
{
    (void)endpoint;
    note_lost(arg, "endpoint", status);
}

/* ---- the canary ---- */

/* Not at once: nobody is in doubt when all of them are closed at the end. */
static void doubt(struct ucx *ucx, const struct process *process)
{
    if (ucx->no_ring || ucx->deaf || !process_is_beside(&ucx->process, process))
        return;
    ucx->doubted = *process;
    ucx->doubt_us = sl_real_us();
}

static void doubt_closed(struct ucx *ucx)
{
    for (struct transport_connection *connection = ucx->connections; connection != NULL;
         connection = connection->next) {
        if (!connection->closing || connection->user == NULL || connection->doubted)
            continue;
        connection->doubted = true;
        doubt(ucx, &connection->process);
    }
}

static void release_canary(struct ucx *ucx, uint64_t now_us)
{
    ucx->doubt_us = 0;
    if (ucx->canary == NULL)
        ucx->canary = canary_create((uint8_t *)ucx->address + PROCESS_BYTES);
    ucx->no_ring = ucx->canary == NULL;
    sl_debug("transfer_canary", "pid=%u ring=%s", ucx->doubted.pid, ucx->no_ring ? "none" : "yes");
    if (ucx->no_ring)
        return;
    ucx->suspected = ucx->doubted;
    ucx->canary_us = now_us;
    ucx->canary_turns = 0;
    canary_send(ucx->canary, AM_CANARY, ++ucx->canary_number);
}

static void watch_canary(struct ucx *ucx)
{
    uint64_t now_us = sl_real_us();
    if (ucx->canary_us == 0 && ucx->doubt_us != 0 && now_us - ucx->doubt_us >= LOOK_US)
        release_canary(ucx, now_us);
    if (ucx->canary_us == 0)
        return;
    canary_progress(ucx->canary);
    uint64_t out_us = now_us - ucx->canary_us;
    if (++ucx->canary_turns < CANARY_TURNS || out_us < CANARY_US ||
        (out_us < CANARY_LONG_US && !process_is_gone(&ucx->process, &ucx->suspected)))
        return;
    ucx->canary_us = 0;
    ucx->deaf = true;
    char why[WHY_BYTES];
    snprintf(why, sizeof(why), "process %u was killed while it wrote into our shared memory",
             ucx->suspected.pid);
    ucx->sink.deaf(ucx->sink.arg, why);
}

/* ---- connections ---- */

static sl_status make_endpoint(struct ucx *ucx, const struct process *process, const void *address,
                               struct transport_connection **connection_out)
{
    struct transport_connection *connection = sl_zalloc(1, sizeof(*connection));
    connection->ucx = ucx;
    connection->process = *process;
    ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER,
        .address = address,
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {.cb = on_endpoint_error, .arg = connection},
    };
    ucs_status_t status = ucp_ep_create(ucx->worker, &params, &connection->endpoint);
    if (status != UCS_OK) {
        sl_free(connection);
        return sl_fail(SL_PEER, "ucp_ep_create: %s", ucs_status_string(status));
    }
    connection->route = (uint64_t)(uintptr_t)connection->endpoint;
    connection->next = ucx->connections;
    ucx->connections = connection;
    *connection_out = connection;
    return SL_OK;
}

/* UCX gives the nth endpoint that one side makes to a worker the nth of the other side as its pair. A
 * side that has made fewer catches up; those on the way are closed again and told to nobody. */
static sl_status ucx_connect(struct transport *transport, const struct transport_target *target,
                             uint32_t *made_out, struct transport_connection **connection_out)
{
    struct ucx *ucx = of(transport);
    struct process process;
    *made_out = 0;
    sl_status status = process_unpack(target->address, target->address_bytes, &process);
    if (status != SL_OK)
        return status;
    const void *address = (const uint8_t *)target->address + PROCESS_BYTES;
    for (;;) {
        struct transport_connection *connection = NULL;
        ++*made_out; /* UCX counts failures as well */
        status = make_endpoint(ucx, &process, address, &connection);
        if (status != SL_OK)
            return status;
        if (target->route == 0 || connection->route == target->route ||
            *made_out >= target->tries) {
            connection->user = target->user;
            *connection_out = connection;
            return SL_OK;
        }
        /* Closed later, when its wire-up is over at both ends. */
        connection->closing = true;
        connection->close_due = true;
        connection->close_us = sl_real_us() + UNUSED_CLOSE_US;
    }
}

static bool ucx_paired(const struct transport_connection *connection)
{
    return connection->route == (uint64_t)(uintptr_t)connection->endpoint;
}

static void ucx_bind(struct transport_connection *connection, uint64_t route)
{
    connection->route = route;
    if (!ucx_paired(connection))
        sl_debug("transfer_unpaired", "route=%llx", (unsigned long long)route);
}

static ucs_status_t submit(struct ucx *ucx, struct request *request)
{
    bool data = request->kind == REQUEST_SEND;
    ucp_request_param_t param = {
        .op_attr_mask =
            UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS,
        .flags = UCP_AM_SEND_FLAG_REPLY | (data ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER),
        .cb.send = on_send_done,
        .user_data = request,
    };
    void *result =
        ucp_am_send_nbx(request->connection->endpoint, data ? AM_OFFER : AM_CONTROL, request->frame,
                        request->frame_size, request->bytes, request->n_bytes, &param);
    request->pending = UCS_PTR_IS_PTR(result);
    if (request->pending)
        return UCS_OK;
    ucs_status_t status = UCS_PTR_RAW_STATUS(result);
    if (status == UCS_OK)
        request_defer(ucx, request);
    else
        note_lost(request->connection, "send", status);
    return status;
}

/* At once, or after UCX has returned: a send inside a callback may find another connection broken, and
 * UCX's tcp progress, which is walking over its events just then, aborts when it comes to that one. */
static sl_status send_request(struct ucx *ucx, struct request *request)
{
    if (ucx->inside) {
        request->next = NULL;
        *ucx->outbox_end = request;
        ucx->outbox_end = &request->next;
        return SL_OK;
    }
    ucs_status_t status = submit(ucx, request);
    if (status == UCS_OK)
        return SL_OK;
    request_give(ucx, request);
    return sl_fail(SL_PEER, "ucp_am_send_nbx: %s", ucs_status_string(status));
}

static void flush_outbox(struct ucx *ucx)
{
    struct request *request = ucx->outbox, *next;
    ucx->outbox = NULL;
    ucx->outbox_end = &ucx->outbox;
    for (; request != NULL; request = next) {
        next = request->next;
        if (!request->connection->closing && submit(ucx, request) == UCS_OK)
            continue;
        request->reason = TRANSFER_LOST;
        request_defer(ucx, request);
    }
}

static sl_status ucx_send_control(struct transport_connection *connection, const uint8_t *frame,
                                  size_t frame_size, const void *data, size_t data_bytes)
{
    struct ucx *ucx = connection->ucx;
    SL_ASSERT(frame_size <= FRAME_BYTES_MAX && !connection->closing);
    struct request *request = request_take(ucx, REQUEST_CONTROL, connection, NULL);
    memcpy(request->frame, frame, frame_size);
    request->frame_size = frame_size;
    if (data_bytes > 0) {
        request->data = sl_zalloc(1, data_bytes);
        memcpy(request->data, data, data_bytes);
        request->bytes = request->data;
        request->n_bytes = data_bytes;
    }
    return send_request(ucx, request);
}

static sl_status ucx_send_data(struct transport_connection *connection, const uint8_t *frame,
                               size_t frame_size, const void *data, size_t data_bytes, void *op)
{
    struct ucx *ucx = connection->ucx;
    SL_ASSERT(frame_size <= FRAME_BYTES_MAX && !connection->closing);
    struct request *request = request_take(ucx, REQUEST_SEND, connection, op);
    memcpy(request->frame, frame, frame_size);
    request->frame_size = frame_size;
    request->bytes = data;
    request->n_bytes = data_bytes;
    return send_request(ucx, request);
}

static void on_close_done(void *ucx_request, ucs_status_t status, void *arg)
{
    (void)status; /* by force: whatever it says, the endpoint is gone */
    struct transport_connection *connection = arg;
    ucp_request_free(ucx_request);
    connection->closed = true;
}

static void close_now(struct transport_connection *connection)
{
    connection->close_due = false;
    connection->closed_us = sl_real_us();
    ucp_request_param_t param = {
        .op_attr_mask =
            UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS,
        .flags = UCP_EP_CLOSE_FLAG_FORCE,
        .cb.send = on_close_done,
        .user_data = connection,
    };
    void *result = ucp_ep_close_nbx(connection->endpoint, &param);
    if (!UCS_PTR_IS_PTR(result))
        connection->closed = true;
}

/* Inside a callback of UCX the endpoint must not go: its tcp progress walks over a list of events that
 * may name the endpoint, and asserts that it is not closed. */
static void ucx_close(struct transport_connection *connection)
{
    SL_ASSERT(!connection->closing);
    connection->closing = true;
    connection->close_due = true;
    if (!connection->ucx->inside)
        close_now(connection);
}

/* ---- progress ---- */

static void tell_done(struct ucx *ucx)
{
    while (ucx->done != NULL) {
        struct request *request = ucx->done;
        ucx->done = request->next;
        if (ucx->done == NULL)
            ucx->done_end = &ucx->done;
        request_done(ucx, request);
    }
}

static void tell_lost(struct ucx *ucx)
{
    for (struct transport_connection *connection = ucx->connections; connection != NULL;
         connection = connection->next) {
        if (!connection->lost || connection->told || connection->closing)
            continue;
        connection->told = true;
        ucx->moved = true;
        ucx->sink.lost(ucx->sink.arg, connection->user, connection->why);
    }
}

/* What is left of a closed connection belongs to nobody: the sink is told that it is lost, and what UCX
 * says of it later, if it ever does, is taken without a word. */
static void abandon(struct ucx *ucx, struct transport_connection *connection, bool receives)
{
    uint32_t n = 0;
    for (struct request *request = ucx->requests; request != NULL; request = request->older) {
        if (request->connection != connection || !request->pending || request->abandoned ||
            (request->kind == REQUEST_RECEIVE) != receives)
            continue;
        request->abandoned = true;
        n++;
        if (request->kind == REQUEST_SEND)
            ucx->sink.sent(ucx->sink.arg, request->op, TRANSFER_LOST);
        else if (request->kind == REQUEST_RECEIVE)
            ucx->sink.landed(ucx->sink.arg, request->op, TRANSFER_LOST);
    }
    connection->n_abandoned += n;
    ucx->moved |= n > 0;
    if (n > 0)
        sl_warn("transfer_abandoned", "%s=%u why=\"%s\"", receives ? "receives" : "sends", n,
                connection->why);
}

/* Nothing of this process will be written any more: it is gone, and UCX has had nothing to do since
 * then for as long as a peer may be silent. UCX copies only inside ucp_worker_progress, on this
 * thread, what the process had put into the ring or the socket before its end. That it had nothing to
 * do shows that this is read, unless a third process was stopped in the microsecond in which it
 * writes its own entry of the ring, before those: hence the wait, after which that one is ejected. */
static bool has_fallen_silent(struct ucx *ucx, struct transport_connection *connection,
                              uint64_t now_us)
{
    if (connection->gone_us == 0 && now_us - connection->looked_us >= LOOK_US) {
        connection->looked_us = now_us;
        if (process_is_gone(&ucx->process, &connection->process))
            connection->gone_us = now_us;
    }
    return connection->gone_us != 0 && ucx->empty_us >= connection->gone_us + ucx->quiet_us;
}

/* Sends: UCX may still read their bytes, if the peer goes on after all; these then reach a stream that is
 * over there, or that can never be sealed. Receives of a peer that may go on stay posted. */
static void abandon_due(struct ucx *ucx)
{
    uint64_t now_us = sl_real_us();
    for (struct transport_connection *connection = ucx->connections; connection != NULL;
         connection = connection->next) {
        if (connection->closed_us == 0 || now_us - connection->closed_us < ABANDON_US)
            continue;
        if (!connection->abandoned)
            abandon(ucx, connection, false);
        connection->abandoned = true;
        if (connection->outstanding > connection->n_abandoned &&
            has_fallen_silent(ucx, connection, now_us))
            abandon(ucx, connection, true);
    }
}

static void tell_closed(struct ucx *ucx)
{
    for (struct transport_connection **at = &ucx->connections; *at != NULL;) {
        struct transport_connection *connection = *at;
        bool held = !connection->closed || connection->n_abandoned > 0;
        if (connection->outstanding > connection->n_abandoned || (held && !connection->abandoned)) {
            at = &connection->next;
            continue;
        }
        if (connection->user != NULL) {
            ucx->moved = true;
            ucx->sink.closed(ucx->sink.arg, connection->user);
            connection->user = NULL;
        }
        if (held) {
            at = &connection->next;
            continue;
        }
        *at = connection->next;
        sl_free(connection);
    }
}

static void close_due(struct ucx *ucx)
{
    for (struct transport_connection *connection = ucx->connections; connection != NULL;
         connection = connection->next) {
        if (connection->close_due &&
            (connection->close_us == 0 || ucx->stopping || sl_real_us() >= connection->close_us))
            close_now(connection);
    }
}

static bool progress_worker(struct ucx *ucx)
{
    ucx->inside = true;
    bool moved = ucp_worker_progress(ucx->worker) != 0;
    ucx->inside = false;
    if (!moved)
        ucx->empty_us = sl_real_us();
    flush_outbox(ucx);
    close_due(ucx);
    tell_done(ucx);
    return moved;
}

static bool ucx_progress(struct transport *transport)
{
    struct ucx *ucx = of(transport);
    ucx->moved = false;
    watch_canary(ucx);
    for (uint32_t i = 0; i < PROGRESS_MAX && progress_worker(ucx); i++)
        ucx->moved = true;
    tell_done(ucx);
    tell_lost(ucx);
    abandon_due(ucx);
    doubt_closed(ucx);
    tell_closed(ucx);
    return ucx->moved;
}

static int ucx_fd(struct transport *transport)
{
    return of(transport)->fd;
}

static bool ucx_arm(struct transport *transport)
{
    struct ucx *ucx = of(transport);
    return ucx->done == NULL && ucp_worker_arm(ucx->worker) == UCS_OK;
}

static uint64_t ucx_due_us(struct transport *transport)
{
    const struct ucx *ucx = of(transport);
    return ucx->canary_us != 0 || ucx->doubt_us != 0 ? CANARY_TURN_US : UINT64_MAX;
}

static void ucx_address(struct transport *transport, const void **address_out, size_t *bytes_out)
{
    *address_out = of(transport)->address;
    *bytes_out = of(transport)->address_bytes;
}

/* Those that wait for their time to be closed, at the end. */
static void close_unused(struct ucx *ucx)
{
    ucx->stopping = true;
    uint64_t begun = sl_real_us();
    while (ucx->connections != NULL && sl_real_us() - begun < UNUSED_CLOSE_US) {
        if (!ucx_progress(&ucx->transport))
            sl_sleep_us(20);
    }
}

static void ucx_destroy(struct transport *transport)
{
    struct ucx *ucx = of(transport);
    if (ucx == NULL)
        return;
    if (ucx->worker != NULL) {
        close_unused(ucx);
        canary_destroy(ucx->canary);
        ucp_worker_destroy(ucx->worker);
    }
    if (ucx->context != NULL)
        ucp_cleanup(ucx->context);
    while (ucx->connections != NULL) {
        struct transport_connection *connection = ucx->connections;
        ucx->connections = connection->next;
        sl_free(connection);
    }
    while (ucx->requests != NULL) {
        struct request *request = ucx->requests;
        ucx->requests = request->older;
        sl_free(request->data);
        sl_free(request);
    }
    sl_free(ucx->address);
    sl_free(ucx);
}

static const struct transport_ops ucx_ops = {
    .name = "ucx",
    .frame_bit = FRAME_TRANSPORT_UCX,
    .destroy = ucx_destroy,
    .address = ucx_address,
    .connect = ucx_connect,
    .bind = ucx_bind,
    .paired = ucx_paired,
    .send_control = ucx_send_control,
    .send_data = ucx_send_data,
    .close = ucx_close,
    .progress = ucx_progress,
    .fd = ucx_fd,
    .arm = ucx_arm,
    .due_us = ucx_due_us,
};

/* ---- start ---- */

/* What each setting is for: docs/transfer.md section 10 and the notes on UCX in docs/. */
static void set_defaults(void)
{
    static const char *const settings[][2] = {
        {"UCX_RNDV_SCHEME", "am"},         /* nobody but the receiver writes its pool */
        {"UCX_SYSV_ERROR_HANDLING", "y"},  /* else error mode PEER drops shared memory silently */
        {"UCX_POSIX_ERROR_HANDLING", "y"}, /* the same */
        {"UCX_KEEPALIVE_INTERVAL", "1s"},  /* a dead peer over shared memory */
        {"UCX_TCP_TX_SEG_SIZE", "64k"},    {"UCX_TCP_RX_SEG_SIZE", "128k"},
    };
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
        setenv(settings[i][0], settings[i][1], 0);
    /* These were read when the library was loaded. Signals are the process's; and a setting for a
     * transport that UCX_TLS leaves out is not worth a warning. */
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    static atomic_flag done = ATOMIC_FLAG_INIT;
    if (atomic_flag_test_and_set(&done))
        return;
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        ucs_debug_disable_signal(signals[i]);
    (void)ucs_global_opts_set_value("WARN_UNUSED_ENV_VARS", "n");
}

static sl_status set_interface(const char *bind)
{
    char name[IF_NAMESIZE];
    sl_status status = sl_address_interface("--bind", bind, name, sizeof(name));
    if (status == SL_OK && name[0] != '\0')
        setenv("UCX_NET_DEVICES", name, 0);
    return status;
}

static sl_status start_context(struct ucx *ucx)
{
    ucp_config_t *config;
    ucs_status_t status = ucp_config_read(NULL, NULL, &config);
    if (status != UCS_OK)
        return sl_fail(SL_DEVICE, "ucp_config_read: %s", ucs_status_string(status));
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                           .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP};
    status = ucp_init(&params, config, &ucx->context);
    ucp_config_release(config);
    if (status != UCS_OK)
        return sl_fail(SL_DEVICE, "ucp_init: %s", ucs_status_string(status));
    ucp_worker_params_t worker = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                  .thread_mode = UCS_THREAD_MODE_SERIALIZED};
    status = ucp_worker_create(ucx->context, &worker, &ucx->worker);
    if (status != UCS_OK)
        return sl_fail(SL_DEVICE, "ucp_worker_create: %s", ucs_status_string(status));
    return SL_OK;
}

static ucs_status_t set_handler(struct ucx *ucx, unsigned id, ucp_am_recv_callback_t callback)
{
    ucp_am_handler_param_t param = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_ARG | UCP_AM_HANDLER_PARAM_FIELD_FLAGS,
        .id = id,
        .cb = callback,
        .arg = ucx,
        .flags = UCP_AM_FLAG_WHOLE_MSG,
    };
    return ucp_worker_set_am_recv_handler(ucx->worker, &param);
}

static sl_status start_worker(struct ucx *ucx)
{
    ucs_status_t status = set_handler(ucx, AM_CONTROL, on_control);
    if (status == UCS_OK)
        status = set_handler(ucx, AM_OFFER, on_offer);
    if (status == UCS_OK)
        status = set_handler(ucx, AM_CANARY, on_canary);
    if (status == UCS_OK)
        status = ucp_worker_get_efd(ucx->worker, &ucx->fd);
    ucp_address_t *address;
    if (status == UCS_OK)
        status = ucp_worker_get_address(ucx->worker, &address, &ucx->address_bytes);
    if (status != UCS_OK)
        return sl_fail(SL_DEVICE, "ucp worker: %s", ucs_status_string(status));
    size_t bytes = ucx->address_bytes;
    ucx->address_bytes += PROCESS_BYTES;
    if (ucx->address_bytes <= TRANSFER_ADDRESS_BYTES_MAX) {
        ucx->address = sl_zalloc(1, ucx->address_bytes);
        process_self(&ucx->process);
        process_pack(&ucx->process, ucx->address);
        memcpy((uint8_t *)ucx->address + PROCESS_BYTES, address, bytes);
    }
    ucp_worker_release_address(ucx->worker, address);
    if (ucx->address == NULL)
        return sl_fail(SL_DEVICE,
                       "UCX address of %zu bytes; at most %d (fewer devices: UCX_NET_DEVICES)",
                       ucx->address_bytes, TRANSFER_ADDRESS_BYTES_MAX);
    return SL_OK;
}

sl_status transport_ucx_create(const struct transport_args *args, struct transport **transport_out)
{
    set_defaults();
    sl_status status = set_interface(args->transfer->bind);
    if (status != SL_OK)
        return status;
    struct ucx *ucx = sl_zalloc(1, sizeof(*ucx));
    ucx->transport.ops = &ucx_ops;
    ucx->sink = args->sink;
    ucx->quiet_us = args->transfer->limits.dead_us;
    ucx->fd = -1;
    ucx->done_end = &ucx->done;
    ucx->outbox_end = &ucx->outbox;
    status = start_context(ucx);
    if (status == SL_OK)
        status = start_worker(ucx);
    if (status != SL_OK) {
        ucx_destroy(&ucx->transport);
        return status;
    }
    *transport_out = &ucx->transport;
    return SL_OK;
}
