/* The compute team: a parallel loop over items whose results do not depend on who runs them.
 *
 *   ticket   n_items << 32 | next   one word; a thread claims item `next` by compare-and-swap
 *   done     items finished         the caller waits until it is n_items
 *
 * The caller works too, so a team of one is a plain loop. Nobody waits for a thread that has not
 * claimed anything: when a foreign process sits on a core, its thread takes fewer items and the others
 * more. A claim is valid for whatever job the ticket then describes, so a thread that was stopped
 * between reading and swapping can do no harm: fn and arg are read after the claim, and the caller
 * cannot leave the job (nor write the next one) while a claim is unfinished.
 *
 * Waiting is spinning, bounded by SPINS, then a futex. Between the regions of one token the gaps are
 * microseconds, so threads spin through a token and sleep when the engine is idle. With more threads
 * than CPUs nobody spins, since the one waited for may need this CPU.
 *
 * Tried and rejected: static shares with a barrier (one stopped thread stops the step); a
 * generation count in the ticket (not needed, see above). */
#include "kernels/cpu/cpu.h"

#include "base/mem.h"

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPINS 2000 /* pauses of about 20 to 40 ns each */

struct worker {
    struct cpu_team *team;
    struct sl_thread thread;
    uint32_t index;
};

struct cpu_team {
    uint32_t n_threads;
    uint32_t spins;
    struct worker *workers; /* [n_threads - 1] */

    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) _Atomic uint32_t done; /* futex of the caller */
    _Atomic uint32_t caller_sleeps;
    _Alignas(64) _Atomic uint32_t bell; /* futex of idle workers */
    _Atomic uint32_t sleepers;
    _Atomic bool stop;
    /* The job: written while no item is claimed. */
    _Alignas(64) void (*fn)(void *arg, uint32_t item, uint32_t thread);
    void *arg;
};

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_sleep(_Atomic uint32_t *word, uint32_t while_value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_value, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static bool ticket_open(uint64_t ticket)
{
    return (uint32_t)ticket < (uint32_t)(ticket >> 32);
}

/* Runs items until none is left to claim. */
static void work(struct cpu_team *team, uint32_t thread)
{
    uint64_t ticket = atomic_load(&team->ticket);
    while (ticket_open(ticket)) {
        if (!atomic_compare_exchange_weak(&team->ticket, &ticket, ticket + 1))
            continue;
        team->fn(team->arg, (uint32_t)ticket, thread);
        uint32_t n_items = (uint32_t)(ticket >> 32);
        if (atomic_fetch_add(&team->done, 1) + 1 == n_items && atomic_load(&team->caller_sleeps))
            futex_wake_all(&team->done);
        ticket = atomic_load(&team->ticket);
    }
}

static void worker_sleep(struct cpu_team *team)
{
    uint32_t bell = atomic_load(&team->bell);
    atomic_fetch_add(&team->sleepers, 1);
    /* A job published before our count was seen has its ticket open now; one after rings the bell. */
    if (!ticket_open(atomic_load(&team->ticket)) && !atomic_load(&team->stop))
        futex_sleep(&team->bell, bell);
    atomic_fetch_sub(&team->sleepers, 1);
}

static void worker_main(void *arg)
{
    struct worker *worker = arg;
    struct cpu_team *team = worker->team;
    while (!atomic_load(&team->stop)) {
        work(team, worker->index);
        uint32_t spins = team->spins;
        while (spins > 0 &&
               !ticket_open(atomic_load_explicit(&team->ticket, memory_order_relaxed)) &&
               !atomic_load_explicit(&team->stop, memory_order_relaxed)) {
            pause_cpu();
            spins--;
        }
        if (spins == 0)
            worker_sleep(team);
    }
}

static void ring(struct cpu_team *team)
{
    if (atomic_load(&team->sleepers) == 0)
        return;
    atomic_fetch_add(&team->bell, 1);
    futex_wake_all(&team->bell);
}

void cpu_team_run(struct cpu_team *team, void (*fn)(void *arg, uint32_t item, uint32_t thread),
                  void *arg, uint32_t n_items)
{
    if (team->n_threads == 1 || n_items <= 1) {
        for (uint32_t i = 0; i < n_items; i++)
            fn(arg, i, 0);
        return;
    }
    team->fn = fn;
    team->arg = arg;
    atomic_store(&team->done, 0);
    atomic_store(&team->ticket, (uint64_t)n_items << 32);
    ring(team);
    work(team, 0);

    for (uint32_t spins = team->spins; spins > 0 && atomic_load(&team->done) != n_items; spins--)
        pause_cpu();
    uint32_t done = atomic_load(&team->done);
    if (done == n_items)
        return;
    atomic_store(&team->caller_sleeps, 1);
    while ((done = atomic_load(&team->done)) != n_items)
        futex_sleep(&team->done, done);
    atomic_store(&team->caller_sleeps, 0);
}

uint32_t cpu_team_threads(const struct cpu_team *team)
{
    return team->n_threads;
}

sl_status cpu_team_create(uint32_t n_threads, struct cpu_team **team_out)
{
    if (n_threads == 0 || n_threads > CPU_THREADS_MAX)
        return sl_fail(SL_INVALID, "compute team of %u threads; want 1..%u", n_threads,
                       CPU_THREADS_MAX);
    struct cpu_team *team = sl_try_aligned(64, sizeof(*team));
    if (team == NULL)
        return sl_fail(SL_NO_MEMORY, "compute team");
    team->n_threads = n_threads;
    team->spins = n_threads <= sl_cpu_count() ? SPINS : 1;
    team->workers = sl_zalloc(n_threads, sizeof(*team->workers));
    for (uint32_t i = 1; i < n_threads; i++) {
        struct worker *worker = &team->workers[i - 1];
        char name[16];
        snprintf(name, sizeof(name), "compute-%u", i);
        worker->team = team;
        worker->index = i;
        sl_status status = sl_thread_start(&worker->thread, name, worker_main, worker);
        if (status != SL_OK) {
            cpu_team_destroy(team);
            return status;
        }
    }
    *team_out = team;
    return SL_OK;
}

void cpu_team_destroy(struct cpu_team *team)
{
    if (team == NULL)
        return;
    atomic_store(&team->stop, true);
    atomic_fetch_add(&team->bell, 1);
    futex_wake_all(&team->bell);
    for (uint32_t i = 1; i < team->n_threads; i++)
        sl_thread_join(&team->workers[i - 1].thread);
    sl_free(team->workers);
    sl_free(team);
}
