/* sluice-prefill: computes the KV cache of prompts and sends it to decode nodes. */
#include "prefill/policy.h"
#include "worker/node.h"

int main(int argc, char **argv)
{
    return worker_main(&prefill_policy, "sluice-prefill",
                       "Computes the KV cache of prompts and sends it to decode nodes.", argc,
                       argv);
}
