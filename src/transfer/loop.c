/* The in-process network.
 *
 * Each node has an inbox of items, sorted by the time at which they are due; it takes them out in its
 * own progress(), on its own thread, with the lock released while the sink runs. A node that is not
 * progressed is a stopped process: its inbox grows.
 *
 *   send_control ──► CONTROL in the peer's inbox (in order per connection)
 *   send_data    ──► OFFER (with a copy of the bytes: the sender's block may be reused once `sent` ran)
 *                      └─ accepted: LANDING in the receiver's own inbox ──► bytes written, landed
 *                      └─ SENT back to the sender: at once when the seed says "local", else on landing
 *   close        ──► own sends: SENT(lost); own receives: half their bytes are written, then
 *                    landed(lost), late; at last CLOSED. The peer's connection: LOST, or nothing ("deaf")
 *
 * That is what UCX does on a bad day (docs/transfer.md section 3): a completed send has not landed, the
 * receive's callback is the only end of a receive, data of a closed connection may come late. Offers
 * overtake each other and control messages; control messages of one connection keep their order.
 * One lock for everything: this is a tool of tests. Lock order: the loop's, then nothing. */
#include "transfer/loop.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "transfer/frame.h"
#include "transfer/transport.h"

#include <pthread.h>
#include <string.h>

#define ITEMS_A_TURN   64
#define BREAK_DELAY_US 10000 /* at most, until a broken connection is noticed */
#define OPS_MAX        256   /* outstanding on one connection; sessions allow 64 */

enum item_kind { ITEM_CONTROL, ITEM_OFFER, ITEM_LANDING, ITEM_SENT, ITEM_LOST, ITEM_CLOSED };

struct item {
    enum item_kind kind;
    uint64_t due_us;
    uint64_t connection; /* that it came by; LOST, CLOSED, SENT: the receiver's own */
    uint64_t sender;     /* incarnation; OFFER, LANDING */
    uint8_t frame[FRAME_BYTES_MAX];
    size_t frame_size;
    void *data; /* owned */
    size_t data_bytes;
    void *op;        /* the sender's (OFFER, SENT; LANDING: NULL when it completed already) */
    void *landed_op; /* the receiver's */
    void *to;
    enum transfer_reason reason;
    struct item *next;
};

/* A data send; ended: its SENT is in the owner's inbox. */
struct send {
    void *op;
    bool ended;
};

struct transport_connection {
    uint64_t id;
    struct node *from;
    uint64_t to; /* incarnation */
    void *user;
    uint64_t route;
    uint64_t control_due_us; /* of the last one: they keep their order */
    bool broken, told, closing;
    struct send sends[OPS_MAX];
    uint32_t n_sends;
    struct transport_connection *next;
};

struct node {
    struct transport transport;
    struct transfer_loop *loop;
    struct transport_sink sink;
    uint64_t incarnation; /* is the address */
    bool dead;
    struct sl_wake wake;
    struct item *inbox;
    struct transport_connection *connections;
    struct node *next;
};

struct transfer_loop {
    pthread_mutex_t lock;
    struct transfer_loop_args args;
    uint64_t random;
    uint64_t n_connections;
    struct node *nodes;
};

static struct node *of(struct transport *transport)
{
    return (struct node *)transport;
}

/* ---- under the lock ---- */

static uint64_t draw(struct transfer_loop *loop, uint64_t below)
{
    uint64_t z = loop->random += 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return below == 0 ? 0 : (z ^ (z >> 31)) % below;
}

static bool chance(struct transfer_loop *loop, uint32_t percent)
{
    return draw(loop, 100) < percent;
}

static struct node *node_of(struct transfer_loop *loop, uint64_t incarnation)
{
    struct node *node = loop->nodes;
    while (node != NULL && node->incarnation != incarnation)
        node = node->next;
    return node;
}

static struct transport_connection *connection_of(struct node *node, uint64_t id)
{
    struct transport_connection *connection = node->connections;
    while (connection != NULL && connection->id != id)
        connection = connection->next;
    return connection;
}

static void insert(struct node *node, struct item *item)
{
    struct item **at = &node->inbox;
    while (*at != NULL && (*at)->due_us <= item->due_us)
        at = &(*at)->next;
    item->next = *at;
    *at = item;
    sl_wake_signal(&node->wake);
}

static struct item *make_item(enum item_kind kind, uint64_t connection, uint64_t due_us)
{
    struct item *item = sl_zalloc(1, sizeof(*item));
    item->kind = kind;
    item->connection = connection;
    item->due_us = due_us;
    return item;
}

static void free_item(struct item *item)
{
    sl_free(item->data);
    sl_free(item);
}

static uint64_t soon(struct transfer_loop *loop, uint64_t within_us)
{
    return sl_now_us() + draw(loop, within_us + 1);
}

/* A send has ended: once, whoever says so first. Its connection may be gone; then nobody asks. */
static void complete_send(struct transfer_loop *loop, uint64_t sender, uint64_t id, void *op,
                          enum transfer_reason reason, uint64_t due_us)
{
    struct node *node = node_of(loop, sender);
    struct transport_connection *connection = node == NULL ? NULL : connection_of(node, id);
    if (op == NULL || connection == NULL)
        return;
    for (uint32_t i = 0; i < connection->n_sends; i++) {
        struct send *send = &connection->sends[i];
        if (send->op != op || send->ended)
            continue;
        send->ended = true;
        struct item *item = make_item(ITEM_SENT, id, due_us);
        item->op = op;
        item->reason = reason;
        insert(node, item);
        return;
    }
}

static void break_connection(struct transfer_loop *loop, struct transport_connection *connection)
{
    if (connection->broken || connection->closing)
        return;
    connection->broken = true;
    insert(connection->from, make_item(ITEM_LOST, connection->id, soon(loop, BREAK_DELAY_US)));
}

static void copy_data(struct item *item, const void *data, size_t data_bytes)
{
    if (data_bytes == 0)
        return;
    item->data = sl_zalloc(1, data_bytes);
    memcpy(item->data, data, data_bytes);
    item->data_bytes = data_bytes;
}

/* ---- sending ---- */

static sl_status loop_connect(struct transport *transport, const struct transport_target *target,
                              uint32_t *made_out, struct transport_connection **connection_out)
{
    *made_out = 1;
    struct node *node = of(transport);
    struct transfer_loop *loop = node->loop;
    uint64_t to;
    if (target->address_bytes != sizeof(to))
        return sl_fail(SL_PEER, "loop address of %zu bytes", target->address_bytes);
    memcpy(&to, target->address, sizeof(to));
    struct transport_connection *connection = sl_zalloc(1, sizeof(*connection));
    pthread_mutex_lock(&loop->lock);
    connection->id = ++loop->n_connections;
    connection->from = node;
    connection->to = to;
    connection->user = target->user;
    connection->next = node->connections;
    node->connections = connection;
    struct node *peer = node_of(loop, to);
    if (peer == NULL || peer->dead)
        break_connection(loop, connection);
    pthread_mutex_unlock(&loop->lock);
    *connection_out = connection;
    return SL_OK;
}

static void loop_bind(struct transport_connection *connection, uint64_t route)
{
    struct transfer_loop *loop = connection->from->loop;
    pthread_mutex_lock(&loop->lock);
    connection->route = route;
    pthread_mutex_unlock(&loop->lock);
}

static bool loop_paired(const struct transport_connection *connection)
{
    (void)connection; /* routes are bound to connections, whichever came first */
    return true;
}

static sl_status send_item(struct transport_connection *connection, enum item_kind kind,
                           const uint8_t *frame, size_t frame_size, const void *data,
                           size_t data_bytes, void *op)
{
    struct node *node = connection->from;
    struct transfer_loop *loop = node->loop;
    pthread_mutex_lock(&loop->lock);
    SL_ASSERT(!connection->closing);
    struct node *peer = node_of(loop, connection->to);
    if (connection->broken) {
        pthread_mutex_unlock(&loop->lock);
        return sl_fail(SL_PEER, "connection %llu is broken", (unsigned long long)connection->id);
    }
    if (op != NULL) {
        SL_ASSERT(connection->n_sends < OPS_MAX);
        connection->sends[connection->n_sends++] = (struct send){.op = op};
    }
    if (peer != NULL && !peer->dead && !node->dead) {
        struct item *item = make_item(kind, connection->id, soon(loop, loop->args.delay_us));
        if (kind == ITEM_CONTROL) {
            if (item->due_us < connection->control_due_us)
                item->due_us = connection->control_due_us;
            connection->control_due_us = item->due_us;
        }
        memcpy(item->frame, frame, frame_size);
        item->frame_size = frame_size;
        copy_data(item, data, data_bytes);
        item->sender = node->incarnation;
        item->op = op;
        insert(peer, item);
    }
    pthread_mutex_unlock(&loop->lock);
    return SL_OK;
}

static sl_status loop_send_control(struct transport_connection *connection, const uint8_t *frame,
                                   size_t frame_size, const void *data, size_t data_bytes)
{
    return send_item(connection, ITEM_CONTROL, frame, frame_size, data, data_bytes, NULL);
}

static sl_status loop_send_data(struct transport_connection *connection, const uint8_t *frame,
                                size_t frame_size, const void *data, size_t data_bytes, void *op)
{
    return send_item(connection, ITEM_OFFER, frame, frame_size, data, data_bytes, op);
}

/* ---- closing ---- */

/* Takes every item out of an inbox that `pick` wants, in order. */
static struct item *extract(struct node *node, bool (*pick)(const struct item *item, uint64_t id),
                            uint64_t id)
{
    struct item *taken = NULL, **end = &taken;
    for (struct item **at = &node->inbox; *at != NULL;) {
        struct item *item = *at;
        if (!pick(item, id)) {
            at = &item->next;
            continue;
        }
        *at = item->next;
        item->next = NULL;
        *end = item;
        end = &item->next;
    }
    return taken;
}

static bool came_by(const struct item *item, uint64_t id)
{
    bool message = item->kind == ITEM_CONTROL || item->kind == ITEM_OFFER;
    return message && item->connection == id;
}

static bool lands_from(const struct item *item, uint64_t id)
{
    return item->kind == ITEM_LANDING && item->connection == id && item->reason == 0;
}

/* What is on its way by a connection that closes: the bytes may come late, or not at all. */
static void close_messages(struct transport_connection *connection)
{
    struct transfer_loop *loop = connection->from->loop;
    for (struct node *node = loop->nodes; node != NULL; node = node->next) {
        struct item *item = extract(node, came_by, connection->id), *next;
        for (; item != NULL; item = next) {
            next = item->next;
            item->op = NULL;
            if (chance(loop, loop->args.late_percent))
                insert(node, item);
            else
                free_item(item);
        }
    }
}

static void close_sends(struct transport_connection *connection, uint64_t *last_due_us)
{
    struct transfer_loop *loop = connection->from->loop;
    for (uint32_t i = 0; i < connection->n_sends; i++)
        complete_send(loop, connection->from->incarnation, connection->id, connection->sends[i].op,
                      TRANSFER_LOST, soon(loop, loop->args.purge_us));
    for (const struct item *item = connection->from->inbox; item != NULL; item = item->next) {
        bool own = item->kind == ITEM_SENT && item->connection == connection->id;
        if (own && item->due_us > *last_due_us)
            *last_due_us = item->due_us;
    }
}

/* Receives that were posted for the peer's connection: the purge comes late. */
static void close_receives(struct transport_connection *connection, uint64_t *last_due_us)
{
    struct transfer_loop *loop = connection->from->loop;
    struct item *item = extract(connection->from, lands_from, connection->route), *next;
    for (; item != NULL; item = next) {
        next = item->next;
        item->reason = TRANSFER_LOST;
        item->due_us = soon(loop, loop->args.purge_us);
        if (item->due_us > *last_due_us)
            *last_due_us = item->due_us;
        complete_send(loop, item->sender, item->connection, item->op, TRANSFER_LOST, item->due_us);
        item->op = NULL;
        insert(connection->from, item);
    }
}

static void tell_peer(struct transport_connection *connection)
{
    struct transfer_loop *loop = connection->from->loop;
    struct node *peer = node_of(loop, connection->to);
    if (peer == NULL || chance(loop, loop->args.deaf_percent))
        return;
    for (struct transport_connection *other = peer->connections; other != NULL;
         other = other->next) {
        if (other->route == connection->id)
            break_connection(loop, other);
    }
}

static void loop_close(struct transport_connection *connection)
{
    struct transfer_loop *loop = connection->from->loop;
    pthread_mutex_lock(&loop->lock);
    SL_ASSERT(!connection->closing);
    uint64_t last_due_us = sl_now_us();
    close_messages(connection);
    close_sends(connection, &last_due_us);
    close_receives(connection, &last_due_us);
    tell_peer(connection);
    connection->closing = true;
    insert(connection->from, make_item(ITEM_CLOSED, connection->id, last_due_us));
    pthread_mutex_unlock(&loop->lock);
}

/* ---- receiving: with the lock released around the sink ---- */

static void run_offer(struct node *node, struct item *item)
{
    struct transfer_loop *loop = node->loop;
    void *to = NULL, *op = NULL;
    enum transfer_reason reason =
        node->sink.offer(node->sink.arg, item->connection, item->frame, item->frame_size,
                         item->data_bytes, true, &to, &op);
    pthread_mutex_lock(&loop->lock);
    bool local = chance(loop, loop->args.local_percent);
    if (reason != 0 || local) {
        complete_send(loop, item->sender, item->connection, item->op, reason,
                      soon(loop, loop->args.delay_us));
        item->op = NULL;
    }
    if (reason == 0) {
        item->kind = ITEM_LANDING;
        item->to = to;
        item->landed_op = op;
        item->due_us = soon(loop, loop->args.land_us);
        insert(node, item);
    } else {
        free_item(item);
    }
    pthread_mutex_unlock(&loop->lock);
}

static void run_landing(struct node *node, struct item *item)
{
    struct transfer_loop *loop = node->loop;
    size_t n = item->reason == 0 ? item->data_bytes : item->data_bytes / 2;
    if (n > 0)
        memcpy(item->to, item->data, n);
    node->sink.landed(node->sink.arg, item->landed_op, item->reason);
    pthread_mutex_lock(&loop->lock);
    complete_send(loop, item->sender, item->connection, item->op, item->reason,
                  soon(loop, loop->args.delay_us));
    pthread_mutex_unlock(&loop->lock);
    free_item(item);
}

static void run_sent(struct node *node, struct item *item)
{
    pthread_mutex_lock(&node->loop->lock);
    struct transport_connection *connection = connection_of(node, item->connection);
    SL_ASSERT(connection != NULL);
    uint32_t i = 0;
    while (i < connection->n_sends &&
           (connection->sends[i].op != item->op || !connection->sends[i].ended))
        i++;
    SL_ASSERT(i < connection->n_sends);
    connection->sends[i] = connection->sends[--connection->n_sends];
    pthread_mutex_unlock(&node->loop->lock);
    node->sink.sent(node->sink.arg, item->op, item->reason);
    free_item(item);
}

static void run_lost(struct node *node, struct item *item)
{
    pthread_mutex_lock(&node->loop->lock);
    struct transport_connection *connection = connection_of(node, item->connection);
    bool tell = connection != NULL && !connection->closing && !connection->told;
    void *user = tell ? connection->user : NULL;
    if (tell)
        connection->told = true;
    pthread_mutex_unlock(&node->loop->lock);
    if (tell)
        node->sink.lost(node->sink.arg, user, "broken");
    free_item(item);
}

static void run_closed(struct node *node, struct item *item)
{
    pthread_mutex_lock(&node->loop->lock);
    struct transport_connection **at = &node->connections;
    while ((*at)->id != item->connection)
        at = &(*at)->next;
    struct transport_connection *connection = *at;
    SL_ASSERT(connection->n_sends == 0);
    *at = connection->next;
    void *user = connection->user;
    pthread_mutex_unlock(&node->loop->lock);
    sl_free(connection);
    free_item(item);
    node->sink.closed(node->sink.arg, user);
}

static void run_item(struct node *node, struct item *item)
{
    switch (item->kind) {
    case ITEM_CONTROL:
        node->sink.control(node->sink.arg, item->connection, item->frame, item->frame_size,
                           item->data, item->data_bytes);
        free_item(item);
        break;
    case ITEM_OFFER:
        run_offer(node, item);
        break;
    case ITEM_LANDING:
        run_landing(node, item);
        break;
    case ITEM_SENT:
        run_sent(node, item);
        break;
    case ITEM_LOST:
        run_lost(node, item);
        break;
    case ITEM_CLOSED:
        run_closed(node, item);
        break;
    }
}

static struct item *take_due(struct node *node)
{
    pthread_mutex_lock(&node->loop->lock);
    struct item *item = node->inbox;
    if (item != NULL && item->due_us > sl_now_us())
        item = NULL;
    if (item != NULL)
        node->inbox = item->next;
    pthread_mutex_unlock(&node->loop->lock);
    return item;
}

static bool loop_progress(struct transport *transport)
{
    struct node *node = of(transport);
    bool moved = false;
    for (uint32_t i = 0; i < ITEMS_A_TURN; i++) {
        struct item *item = take_due(node);
        if (item == NULL)
            break;
        run_item(node, item);
        moved = true;
    }
    return moved;
}

static int loop_fd(struct transport *transport)
{
    return of(transport)->wake.fd;
}

static uint64_t inbox_due_us(const struct node *node)
{
    uint64_t now = sl_now_us();
    if (node->inbox == NULL)
        return UINT64_MAX;
    return node->inbox->due_us > now ? node->inbox->due_us - now : 0;
}

static uint64_t loop_due_us(struct transport *transport)
{
    struct node *node = of(transport);
    pthread_mutex_lock(&node->loop->lock);
    uint64_t due = inbox_due_us(node);
    pthread_mutex_unlock(&node->loop->lock);
    return due;
}

static bool loop_arm(struct transport *transport)
{
    sl_wake_clear(&of(transport)->wake);
    return loop_due_us(transport) > 0;
}

static void loop_address(struct transport *transport, const void **address_out, size_t *bytes_out)
{
    *address_out = &of(transport)->incarnation;
    *bytes_out = sizeof(of(transport)->incarnation);
}

static void loop_node_destroy(struct transport *transport)
{
    struct node *node = of(transport);
    struct transfer_loop *loop = node->loop;
    pthread_mutex_lock(&loop->lock);
    struct node **at = &loop->nodes;
    while (*at != node)
        at = &(*at)->next;
    *at = node->next;
    for (struct node *other = loop->nodes; other != NULL; other = other->next) {
        for (struct transport_connection *c = other->connections; c != NULL; c = c->next) {
            if (c->to == node->incarnation)
                break_connection(loop, c);
        }
    }
    pthread_mutex_unlock(&loop->lock);
    while (node->inbox != NULL) {
        struct item *item = node->inbox;
        node->inbox = item->next;
        free_item(item);
    }
    while (node->connections != NULL) {
        struct transport_connection *connection = node->connections;
        node->connections = connection->next;
        sl_free(connection);
    }
    sl_wake_fini(&node->wake);
    sl_free(node);
}

static const struct transport_ops loop_ops = {
    .name = "loop",
    .frame_bit = FRAME_TRANSPORT_LOOP,
    .destroy = loop_node_destroy,
    .address = loop_address,
    .connect = loop_connect,
    .bind = loop_bind,
    .paired = loop_paired,
    .send_control = loop_send_control,
    .send_data = loop_send_data,
    .close = loop_close,
    .progress = loop_progress,
    .fd = loop_fd,
    .arm = loop_arm,
    .due_us = loop_due_us,
};

sl_status transport_loop_create(const struct transport_args *args, struct transport **transport_out)
{
    struct transfer_loop *loop = args->transfer->loop;
    if (loop == NULL)
        return sl_fail(SL_INVALID, "transport loop without a loop");
    struct node *node = sl_zalloc(1, sizeof(*node));
    sl_status status = sl_wake_init(&node->wake);
    if (status != SL_OK) {
        sl_free(node);
        return status;
    }
    node->transport.ops = &loop_ops;
    node->loop = loop;
    node->sink = args->sink;
    node->incarnation = args->transfer->incarnation;
    pthread_mutex_lock(&loop->lock);
    bool taken = node_of(loop, node->incarnation) != NULL;
    if (!taken) {
        node->next = loop->nodes;
        loop->nodes = node;
    }
    pthread_mutex_unlock(&loop->lock);
    if (taken) {
        sl_wake_fini(&node->wake);
        sl_free(node);
        return sl_fail(SL_INVALID, "two nodes of one incarnation in a loop");
    }
    *transport_out = &node->transport;
    return SL_OK;
}

/* ---- the network itself ---- */

sl_status transfer_loop_create(const struct transfer_loop_args *args,
                               struct transfer_loop **loop_out)
{
    if (args->local_percent > 100 || args->late_percent > 100 || args->deaf_percent > 100)
        return sl_fail(SL_INVALID, "loop: percentages of %u, %u, %u", args->local_percent,
                       args->late_percent, args->deaf_percent);
    struct transfer_loop *loop = sl_zalloc(1, sizeof(*loop));
    pthread_mutex_init(&loop->lock, NULL);
    loop->args = *args;
    loop->random = args->seed;
    *loop_out = loop;
    return SL_OK;
}

void transfer_loop_destroy(struct transfer_loop *loop)
{
    if (loop == NULL)
        return;
    SL_ASSERT(loop->nodes == NULL);
    pthread_mutex_destroy(&loop->lock);
    sl_free(loop);
}

/* Breaks a node's connections to a peer. What is on its way by them is lost for half of the items: a
 * send among them stays outstanding until its connection is closed, as with a real network. */
static void break_towards(struct transfer_loop *loop, struct node *node, uint64_t to)
{
    for (struct transport_connection *c = node->connections; c != NULL; c = c->next) {
        if (c->to != to || c->closing || c->broken)
            continue;
        break_connection(loop, c);
        struct node *peer = node_of(loop, to);
        struct item *item = peer == NULL ? NULL : extract(peer, came_by, c->id), *next;
        for (; item != NULL; item = next) {
            next = item->next;
            if (chance(loop, 50)) {
                insert(peer, item);
                continue;
            }
            complete_send(loop, node->incarnation, c->id, item->op, TRANSFER_LOST,
                          soon(loop, BREAK_DELAY_US));
            free_item(item);
        }
    }
}

void transfer_loop_cut(struct transfer_loop *loop, uint64_t a, uint64_t b)
{
    pthread_mutex_lock(&loop->lock);
    struct node *one = node_of(loop, a), *other = node_of(loop, b);
    if (one != NULL)
        break_towards(loop, one, b);
    if (other != NULL)
        break_towards(loop, other, a);
    pthread_mutex_unlock(&loop->lock);
}

void transfer_loop_kill(struct transfer_loop *loop, uint64_t incarnation)
{
    pthread_mutex_lock(&loop->lock);
    struct node *node = node_of(loop, incarnation);
    if (node != NULL && !node->dead) {
        for (struct node *other = loop->nodes; other != NULL; other = other->next) {
            if (other != node)
                break_towards(loop, other, incarnation);
        }
        node->dead = true;
    }
    pthread_mutex_unlock(&loop->lock);
}

uint64_t transfer_loop_due_us(struct transfer_loop *loop)
{
    uint64_t due = UINT64_MAX;
    pthread_mutex_lock(&loop->lock);
    for (const struct node *node = loop->nodes; node != NULL; node = node->next) {
        uint64_t mine = node->dead ? UINT64_MAX : inbox_due_us(node);
        if (mine < due)
            due = mine;
    }
    pthread_mutex_unlock(&loop->lock);
    return due;
}

void transfer_loop_inject(struct transfer_loop *loop, uint64_t from, uint64_t to, bool offer,
                          const void *bytes, size_t n_bytes, size_t n_data)
{
    pthread_mutex_lock(&loop->lock);
    struct node *sender = node_of(loop, from), *receiver = node_of(loop, to);
    struct transport_connection *connection = sender == NULL ? NULL : sender->connections;
    while (connection != NULL && (connection->to != to || connection->closing))
        connection = connection->next;
    if (connection != NULL && receiver != NULL && n_bytes <= FRAME_BYTES_MAX) {
        struct item *item =
            make_item(offer ? ITEM_OFFER : ITEM_CONTROL, connection->id, sl_now_us());
        memcpy(item->frame, bytes, n_bytes);
        item->frame_size = n_bytes;
        item->data = sl_zalloc(1, n_data);
        item->data_bytes = n_data;
        item->sender = from;
        insert(receiver, item);
    }
    pthread_mutex_unlock(&loop->lock);
}
