/* The canary. UCX's shared memory has one ring per worker, into which everybody writes who sends to it: a
 * sender takes the next place, fills it and then marks it as filled. One that is killed in between leaves a
 * place that nobody will ever mark, and the worker waits for it for good: whatever comes behind it, from
 * whomever, is never read, and UCX notices nothing (seen in about one of fifty kills of a source that
 * was sending; the window is as long as the copy, and a preempted thread stays in it).
 *
 * So a second worker of this process, which has nothing but shared memory, sends to the first. Its
 * message takes the way of all others: it arrives, or the ring is broken. Who sends is another worker
 * because one worker reaches itself without the ring. It is made when it is first needed, since its own
 * rings take some MiB. Runs on the transfer thread; ucx.c decides when. */
#include "transfer/canary.h"

#include "base/mem.h"

#include <ucp/api/ucp.h>
#include <ucs/debug/log_def.h>

struct canary {
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_ep_h endpoint;
    uint64_t number; /* UCX reads it until the message has left */
    uint32_t n_pending;
};

static ucs_log_func_rc_t say_nothing(const char *file, unsigned line, const char *function,
                                     ucs_log_level_t level,
                                     const ucs_log_component_config_t *component,
                                     const char *message, va_list arguments)
{
    (void)file, (void)line, (void)function, (void)level, (void)component;
    (void)message, (void)arguments;
    return UCS_LOG_FUNC_RC_STOP;
}

static void on_error(void *arg, ucp_ep_h endpoint, ucs_status_t status)
{
    (void)arg, (void)endpoint, (void)status; /* it will not arrive, which says all */
}

static void on_sent(void *request, ucs_status_t status, void *arg)
{
    (void)status;
    struct canary *canary = arg;
    canary->n_pending--;
    ucp_request_free(request);
}

static ucs_status_t connect_to(struct canary *canary, const void *address)
{
    ucp_config_t *config;
    ucs_status_t status = ucp_config_read(NULL, NULL, &config);
    if (status != UCS_OK)
        return status;
    status = ucp_config_modify(config, "TLS", "mm");
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_AM};
    if (status == UCS_OK)
        status = ucp_init(&params, config, &canary->context);
    ucp_config_release(config);
    ucp_worker_params_t worker = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                  .thread_mode = UCS_THREAD_MODE_SERIALIZED};
    if (status == UCS_OK)
        status = ucp_worker_create(canary->context, &worker, &canary->worker);
    ucp_ep_params_t endpoint = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER,
        .address = address,
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {.cb = on_error, .arg = canary},
    };
    return status == UCS_OK ? ucp_ep_create(canary->worker, &endpoint, &canary->endpoint) : status;
}

struct canary *canary_create(const void *address)
{
    struct canary *canary = sl_zalloc(1, sizeof(*canary));
    /* UCX speaks of an error where a worker has no shared memory. */
    ucs_log_push_handler(say_nothing);
    ucs_status_t status = connect_to(canary, address);
    ucs_log_pop_handler();
    if (status == UCS_OK)
        return canary;
    canary->endpoint = NULL;
    canary_destroy(canary);
    return NULL;
}

void canary_destroy(struct canary *canary)
{
    if (canary == NULL)
        return;
    if (canary->endpoint != NULL) {
        ucp_request_param_t force = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
                                     .flags = UCP_EP_CLOSE_FLAG_FORCE};
        void *request = ucp_ep_close_nbx(canary->endpoint, &force);
        if (UCS_PTR_IS_PTR(request)) /* of a ring that is full nothing comes back: not waited for */
            ucp_request_free(request);
    }
    if (canary->worker != NULL)
        ucp_worker_destroy(canary->worker);
    if (canary->context != NULL)
        ucp_cleanup(canary->context);
    sl_free(canary);
}

void canary_send(struct canary *canary, unsigned am_id, uint64_t number)
{
    if (canary->n_pending > 0)
        return;
    canary->number = number;
    ucp_request_param_t param = {
        .op_attr_mask =
            UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS,
        .flags = UCP_AM_SEND_FLAG_EAGER,
        .cb.send = on_sent,
        .user_data = canary,
    };
    void *request = ucp_am_send_nbx(canary->endpoint, am_id, &canary->number,
                                    sizeof(canary->number), NULL, 0, &param);
    if (UCS_PTR_IS_PTR(request))
        canary->n_pending++;
}

void canary_progress(struct canary *canary)
{
    while (ucp_worker_progress(canary->worker) != 0)
        continue;
}
