#include "proto/check.h"
sl_status rpc_check_node_message(const Sluice__NodeMessage *message)
{
    (void)message;
    return SL_OK;
}
sl_status rpc_check_coordinator_message(const Sluice__CoordinatorMessage *message)
{
    (void)message;
    return SL_OK;
}
