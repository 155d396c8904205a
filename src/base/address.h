/* Addresses as operators write them: "host:port" and "[v6]:port". */
#ifndef SL_BASE_ADDRESS_H
#define SL_BASE_ADDRESS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SL_HOST_BYTES    256 /* enough for every name that DNS knows */
#define SL_ADDRESS_BYTES (SL_HOST_BYTES + 8)

/* Splits it; a host is wanted, and one that is no name or address is found out by who looks it up.
 * SL_INVALID names `what`, the text, and what is wrong. */
sl_status sl_address_parse(const char *what, const char *text, char host_out[SL_HOST_BYTES],
                           uint16_t *port_out) SL_MUST_USE;
/* host:port, or [v6]:port; what does not fit is cut. */
void sl_address_format(const char *host, uint16_t port, char out[SL_ADDRESS_BYTES]);
/* Whether it is a name or an address without a port, of at most `bytes_max` bytes: as an operator gives it. */
bool sl_address_is_host(const char *host, size_t bytes_max);
/* The name of the interface that is called so, or has this IP address; "" for any: NULL, "", 0.0.0.0, ::.
 * SL_INVALID names `what`. */
sl_status sl_address_interface(const char *what, const char *text, char *name_out,
                               size_t bytes) SL_MUST_USE;
/* 0.0.0.0 or ::, which stand for every address of a machine. */
bool sl_address_is_any(const char *host);
/* Where this machine itself finds what listens at `host`: that host, or loopback for 0.0.0.0 and ::, which are
 * no place to go to. Borrowed, or static. */
const char *sl_address_reach(const char *host);

#endif
