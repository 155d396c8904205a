/* Torture: a scenario is run with the 1st, 2nd, 3rd … fault point that it reaches failing, until a run
 * in which none fired. Each run must end in a status: the one of the run without a fault when the
 * fault was survived, else an error with a sentence. What the scenario must do itself: give back all
 * it took (ASan's leak check sees the rest), and, with `reusable`, show after a failure that the
 * objects which it keeps in `arg` still work.
 *
 *   static sl_status scenario(void *arg) { … create, use, destroy; return the first failure … }
 *   static void test_torture(void **state) { torture_run("kv pool", scenario, NULL, &arg, 10000); }
 */
#ifndef TESTS_SUPPORT_TORTURE_H
#define TESTS_SUPPORT_TORTURE_H

#include "base/fault.h"
#include "base/status.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

/* One run with fault `nth` armed. Returns whether it fired. */
static inline bool torture_once(const char *name, sl_status (*scenario)(void *arg),
                                void (*reusable)(void *arg), void *arg, uint64_t nth)
{
    sl_fault_torture(nth);
    sl_status status = scenario(arg);
    bool fired = sl_fault_fired();
    sl_fault_torture(0);
    if (!fired && status != SL_OK)
        fail_msg("%s: fails without a fault: %s %s", name, sl_status_name(status), sl_error());
    if (status != SL_OK && sl_error()[0] == '\0')
        fail_msg("%s: fault %" PRIu64 " gives %s without a sentence", name, nth,
                 sl_status_name(status));
    if (reusable != NULL)
        reusable(arg);
    return fired;
}

/* Runs the scenario until no fault fires, at most n_max times; more is a scenario without an end.
 * `reusable` (may be NULL) is called after every run, without faults. Returns how many fired. */
static inline uint64_t torture_run(const char *name, sl_status (*scenario)(void *arg),
                                   void (*reusable)(void *arg), void *arg, uint64_t n_max)
{
    sl_status status = scenario(arg);
    if (status != SL_OK)
        fail_msg("%s: fails before any fault: %s %s", name, sl_status_name(status), sl_error());
    for (uint64_t nth = 1; nth <= n_max; nth++) {
        if (torture_once(name, scenario, reusable, arg, nth))
            continue;
        printf("torture: %s: %" PRIu64 " faults\n", name, nth - 1);
        if (nth == 1)
            fail_msg("%s: reaches no fault point; the test shows nothing", name);
        return nth - 1;
    }
    fail_msg("%s: still faults after %" PRIu64 " runs", name, n_max);
    return n_max;
}

#endif
