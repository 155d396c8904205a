/* What the transfer layer counts, per (source, destination, transport) and side, and the totals that
 * heartbeats carry. Counted where transfers complete. */
#ifndef SL_TRANSFER_METER_H
#define SL_TRANSFER_METER_H

#include "transfer/transfer.h"

struct meter;

/* Time during which at least one transfer was in flight. */
struct busy {
    uint32_t n;
    uint64_t since_us, total_us;
};
void busy_begin(struct busy *busy, uint64_t now_us);
void busy_end(struct busy *busy, uint64_t now_us);
/* The open part included. */
uint64_t busy_total(const struct busy *busy, uint64_t now_us);

/* One direction between this node and a peer; peers beyond METER_PEERS_MAX share one, "other". */
#define METER_PEERS_MAX 32
struct meter_link;

enum meter_count {
    METER_MISBEHAVED,    /* messages that no honest peer sends */
    METER_UNKNOWN,       /* messages of streams or connections that are not known */
    METER_FORCED_CLOSES, /* sessions that a deadline closed */
    METER_SESSIONS,      /* that came up */
    METER_SESSIONS_LOST,
    METER_COUNT
};

enum meter_end { METER_DONE, METER_FAILED, METER_CANCELLED, METER_END_COUNT };

enum meter_gauge {
    METER_SENDING,  /* streams of this node as the source */
    METER_PARKED,   /* opens without a Submit */
    METER_LANDING,  /* streams that receive */
    METER_DRAINING, /* streams that wait for callbacks, both sides */
    METER_GAUGE_COUNT
};

struct meter *meter_create(struct sl_metrics *metrics, const char *node_id, const char *transport);
void meter_destroy(struct meter *meter);
struct meter_link *meter_link(struct meter *meter, const char *peer_id, bool send);
void meter_begin(struct meter_link *link, uint64_t now_us);
/* One piece has completed; bytes count only when ok. */
void meter_end(struct meter *meter, struct meter_link *link, uint64_t now_us, uint64_t begun_us,
               size_t bytes, bool ok);
/* A stream is over. reason 0: it reached its good end. */
void meter_stream(struct meter *meter, struct meter_link *link, enum transfer_reason reason,
                  const struct transfer_stats *stats);
/* A link was probed: its limit is at least bytes over busy_us. */
void meter_probe(struct meter_link *link, uint64_t bytes, uint64_t busy_us);
void meter_refused(struct meter_link *link, enum transfer_reason reason);
void meter_count(struct meter *meter, enum meter_count what);
void meter_gauge(struct meter *meter, enum meter_gauge what, uint32_t value);
/* Brings the busy seconds of all links up to date. */
void meter_refresh(struct meter *meter, uint64_t now_us);
/* Any thread. */
uint32_t meter_totals(struct meter *meter, struct transfer_totals *totals_out, uint32_t max);

#endif
