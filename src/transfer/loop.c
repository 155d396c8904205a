#include "transfer/loop.h"
#include "transfer/transport.h"
sl_status transport_loop_create(const struct transport_args *args, struct transport **transport_out)
{
    (void)args;
    (void)transport_out;
    return sl_fail(SL_UNSUPPORTED, "loop");
}
