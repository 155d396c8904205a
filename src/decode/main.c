/* sluice-decode: receives the KV cache of prompts and generates their tokens. */
#include "decode/policy.h"
#include "worker/node.h"

int main(int argc, char **argv)
{
    return worker_main(&decode_policy, "sluice-decode",
                       "Receives the KV cache of prompts and generates their tokens.", argc, argv);
}
