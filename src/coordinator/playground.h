/* The page at "/": a playground for conversations, and the fleet. playground.html, embedded by the build. */
#ifndef SL_COORDINATOR_PLAYGROUND_H
#define SL_COORDINATOR_PLAYGROUND_H

#include "coordinator/http.h"

/* Answers with the page and its headers. Any thread, at once. */
void playground_reply(struct http_exchange *exchange);

#endif
