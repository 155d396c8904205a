/* What a decode node says before the prefill node has said what only that one knows: it waits. */
#ifndef SL_COORDINATOR_EARLY_H
#define SL_COORDINATOR_EARLY_H

#include "coordinator/core.h"

#define EARLY_BYTES_MAX 16384u /* of one request; what finds no room does not wait */

/* True when it was kept, for early_take; false when it is to be taken now. */
bool early_keeps_run(struct request *request, const struct registry_node *node,
                     const Sluice__TokenRun *run);
bool early_keeps_finished(struct request *request, const struct registry_node *node,
                          const Sluice__Finished *finished);
/* P has spoken: what was kept is taken, in order. The request may be gone, before or after. */
void early_take(struct coordinator *c, uint64_t request, uint64_t now_us);

#endif
