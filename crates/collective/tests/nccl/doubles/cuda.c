/* A double of the CUDA driver, for tests: a "device" is host memory, a stream is a thread that does its work in order.
 * It has what lyceum-collective calls and nothing else. As in the real driver, the null stream is the default stream of
 * the device that is current on the calling thread, and other streams do not wait for it of themselves. */
#include <pthread.h>
#include <stdlib.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_READY = 600, DEVICES = 8 };

typedef struct event {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int recorded, reached, users;
} event;

typedef struct work {
    void (*call)(void *);
    void *argument;
    event *reach, *await;
    struct work *next;
} work;

typedef struct stream {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    work *first, **last;
    int busy, closed;
} stream;

static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;
static stream *defaults[DEVICES];
static _Thread_local int current = -1;

static void unuse(event *e) {
    pthread_mutex_lock(&e->lock);
    int left = --e->users;
    pthread_mutex_unlock(&e->lock);
    if (left == 0) free(e);
}

static void *serve(void *argument) {
    stream *s = argument;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (s->first == NULL && !s->closed) pthread_cond_wait(&s->changed, &s->lock);
        work *w = s->first;
        if (w == NULL) break;
        s->first = w->next;
        if (s->first == NULL) s->last = &s->first;
        s->busy = 1;
        pthread_mutex_unlock(&s->lock);
        if (w->call != NULL) w->call(w->argument);
        if (w->reach != NULL) {
            pthread_mutex_lock(&w->reach->lock);
            w->reach->reached = 1;
            pthread_cond_broadcast(&w->reach->changed);
            pthread_mutex_unlock(&w->reach->lock);
            unuse(w->reach);
        }
        if (w->await != NULL) {
            pthread_mutex_lock(&w->await->lock);
            while (w->await->recorded && !w->await->reached) pthread_cond_wait(&w->await->changed, &w->await->lock);
            pthread_mutex_unlock(&w->await->lock);
            unuse(w->await);
        }
        free(w);
        pthread_mutex_lock(&s->lock);
        s->busy = 0;
    }
    pthread_mutex_unlock(&s->lock);
    free(s);
    return NULL;
}

static stream *open_stream(void) {
    stream *s = calloc(1, sizeof *s);
    pthread_t thread;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->last = &s->first;
    pthread_create(&thread, NULL, serve, s);
    pthread_detach(thread);
    return s;
}

static stream *resolve(stream *s) {
    if (s != NULL || current < 0) return s;
    pthread_mutex_lock(&devices_lock);
    if (defaults[current] == NULL) defaults[current] = open_stream();
    s = defaults[current];
    pthread_mutex_unlock(&devices_lock);
    return s;
}

static int put(stream *s, work item) {
    s = resolve(s);
    if (s == NULL) return INVALID_VALUE;
    work *w = malloc(sizeof *w);
    *w = item;
    w->next = NULL;
    pthread_mutex_lock(&s->lock);
    *s->last = w;
    s->last = &w->next;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return SUCCESS;
}

int cuInit(unsigned flags) { return flags == 0 ? SUCCESS : INVALID_VALUE; }

int cuDeviceGet(int *device, int ordinal) {
    if (ordinal < 0 || ordinal >= DEVICES) return 101;
    *device = ordinal;
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = (void *)(long)(device + 1);
    return SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int device) { return device >= 0 ? SUCCESS : INVALID_VALUE; }

int cuCtxSetCurrent(void *context) {
    current = (int)(long)context - 1;
    return SUCCESS;
}

int cuStreamCreate(stream **s, unsigned flags) {
    if (current < 0 || flags != 1 /* non-blocking */) return INVALID_VALUE;
    *s = open_stream();
    return SUCCESS;
}

int cuStreamDestroy_v2(stream *s) {
    pthread_mutex_lock(&s->lock);
    s->closed = 1;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return SUCCESS;
}

int cuStreamQuery(stream *s) {
    s = resolve(s);
    pthread_mutex_lock(&s->lock);
    int busy = s->busy || s->first != NULL;
    pthread_mutex_unlock(&s->lock);
    return busy ? NOT_READY : SUCCESS;
}

int cuEventCreate(event **e, unsigned flags) {
    (void)flags;
    *e = calloc(1, sizeof **e);
    pthread_mutex_init(&(*e)->lock, NULL);
    pthread_cond_init(&(*e)->changed, NULL);
    (*e)->users = 1;
    return SUCCESS;
}

static event *use(event *e) {
    pthread_mutex_lock(&e->lock);
    e->users++;
    pthread_mutex_unlock(&e->lock);
    return e;
}

int cuEventRecord(event *e, stream *s) {
    e->recorded = 1;
    return put(s, (work){.reach = use(e)});
}

int cuStreamWaitEvent(stream *s, event *e, unsigned flags) {
    (void)flags;
    return put(s, (work){.await = use(e)});
}

int cuEventDestroy_v2(event *e) {
    unuse(e);
    return SUCCESS;
}

int cuLaunchHostFunc(stream *s, void (*call)(void *), void *argument) {
    return put(s, (work){.call = call, .argument = argument});
}

int cuGetErrorString(int error, const char **text) {
    *text = error == 101 ? "invalid device ordinal" : "an error of the double";
    return SUCCESS;
}
