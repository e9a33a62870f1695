/*
 * With BEHAVE_CAPTURE set, every call of the function under test is made while another thread captures a stream.
 *
 *   survives   the capture must end well: the model allows that function and nothing else, so whatever the shim calls
 *              besides it must be safe
 *   breaks     the model allows nothing: the first call must be refused, and break the capture, as without a shim
 */
#include <pthread.h>

#include "behave.h"

enum { STREAM_CAPTURE_UNSUPPORTED = 900, STREAM_CAPTURE_INVALIDATED = 901 };
enum step { IDLE, BEGIN, CAPTURING, END, ENDED };

/* As many words as any function has; those that it has not do no harm to it. */
#define WORDS uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, uintptr_t e, uintptr_t f, uintptr_t g, uintptr_t h
typedef int called_t(WORDS);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static enum step step;
static int ended_with;
static bool must_survive;
static called_t *called;

static void go_to(enum step next)
{
    step = next;
    pthread_cond_broadcast(&changed);
}

static void wait_for(enum step awaited)
{
    while (step != awaited)
        pthread_cond_wait(&changed, &lock);
}

static void *capture(void *unused)
{
    handle_t stream, graph;
    use_device(1);                      /* the checks look at the contexts of GPU 0 */
    CHECK(cuStreamCreate(&stream, 1) == 0);
    pthread_mutex_lock(&lock);
    go_to(IDLE);
    for (;;) {
        wait_for(BEGIN);
        CHECK(cuStreamBeginCapture_v2(stream, 0) == 0);
        go_to(CAPTURING);
        wait_for(END);
        ended_with = cuStreamEndCapture(stream, &graph);
        go_to(ENDED);
    }
    return unused;
}

static int around(WORDS)
{
    pthread_mutex_lock(&lock);
    go_to(BEGIN);
    wait_for(CAPTURING);
    pthread_mutex_unlock(&lock);
    int code = called(a, b, c, d, e, f, g, h);
    pthread_mutex_lock(&lock);
    go_to(END);
    wait_for(ENDED);
    pthread_mutex_unlock(&lock);
    if (must_survive) {
        CHECK(code != STREAM_CAPTURE_UNSUPPORTED && ended_with == 0);
        return code;
    }
    /* What the shim refuses never comes to the driver. */
    if (code == OUT_OF_MEMORY && ended_with == 0)
        return code;
    CHECK(code == STREAM_CAPTURE_UNSUPPORTED && ended_with == STREAM_CAPTURE_INVALIDATED);
    exit(0);
}

static const struct {
    const char *name;
    void *pointer;
} functions[] = {
#define ENTRY(name, parameters) {#name, &name},
    DRIVER_API(ENTRY)
#undef ENTRY
};

void capture_around(const char *symbol)
{
    pthread_t thread;
    const char *wanted = getenv("BEHAVE_CAPTURE");
    called_t *wrapper = around;
    if (wanted == NULL)
        return;
    must_survive = strcmp(wanted, "survives") == 0;
    for (size_t index = 0; index < sizeof(functions) / sizeof(functions[0]); index++) {
        if (strcmp(functions[index].name, symbol) != 0)
            continue;
        step = ENDED;
        CHECK(pthread_create(&thread, NULL, capture, NULL) == 0);
        pthread_mutex_lock(&lock);
        wait_for(IDLE);
        pthread_mutex_unlock(&lock);
        memcpy(&called, functions[index].pointer, sizeof(called));
        memcpy(functions[index].pointer, &wrapper, sizeof(wrapper));
        return;
    }
    CHECK(!"in the list of functions");
}
