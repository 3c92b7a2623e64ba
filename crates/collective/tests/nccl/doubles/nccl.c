/* A double of NCCL, for tests, over the double of the driver: ranks are threads of one process, "device" memory is host
 * memory, sums are formed in rank order. It is non-blocking as NCCL is: joining and launching answer "in progress" for
 * a while. It writes down every call, as "<rank> <call> <thread>" lines in NCCL_DOUBLE_LOG, and fails as told:
 *   NCCL_DOUBLE_FAULT=join          nobody ever has joined
 *   NCCL_DOUBLE_FAULT=stuck         operations never end, but by an abort
 *   NCCL_DOUBLE_FAULT=apart         so too, and a rank has joined without the others: they are other processes
 *   NCCL_DOUBLE_FAULT=network       operations never end, and rank 1 has an asynchronous error
 * Compiled with -DVERSION=n it has another version, with -DLACKS_ABORT no ncclCommAbort. */
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef VERSION
#define VERSION 22809
#endif

enum { OK = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, REMOTE_ERROR = 6, IN_PROGRESS = 7, RANKS = 16, OPERATIONS = 8 };

typedef struct { char internal[128]; } unique_id;

typedef struct {
    size_t size;
    unsigned magic, version;
    int blocking, cgaClusterSize, minCTAs, maxCTAs;
    const char *netName;
    int splitShare, trafficClass;
    const char *commName;
    int collnetEnable, CTAPolicy, shrinkShare, nvlsCTAs, nChannelsPerNetPeer, nvlinkCentricSched;
} config;

/* One operation: where each rank's bytes are, and the result that the last to come makes of them. */
typedef struct {
    unsigned long number;
    const char *sent[RANKS];
    int come, gone;
    char *result;
} meeting;

typedef struct group {
    unique_id id;
    int ranks, joined;
    meeting meetings[OPERATIONS];
    struct group *next;
} group;

typedef struct {
    group *group;
    int rank, aborted, progress;
    unsigned long operations;
} comm;

typedef struct {
    comm *comm;
    unsigned long number;
    const char *sent;
    char *received;
    size_t count;
    int kind, type, root;
} operation;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static group *groups;
static int (*launch)(void *, void (*)(void *), void *);

static int faulty(const char *fault) {
    const char *told = getenv("NCCL_DOUBLE_FAULT");
    return told != NULL && strcmp(told, fault) == 0;
}

static void note(int rank, const char *call) {
    const char *path = getenv("NCCL_DOUBLE_LOG");
    FILE *file = path == NULL ? NULL : fopen(path, "a");
    if (file == NULL) return;
    fprintf(file, "%d %s %lu\n", rank, call, (unsigned long)pthread_self());
    fclose(file);
}

int ncclGetVersion(int *version) {
    *version = VERSION;
    return OK;
}

const char *ncclGetErrorString(int result) {
    switch (result) {
        case SYSTEM_ERROR: return "unhandled system error";
        case INVALID_ARGUMENT: return "invalid argument";
        case REMOTE_ERROR: return "remote process exited or there was a network error";
        default: return "unknown result code";
    }
}

const char *ncclGetLastError(comm *c) { return c != NULL && faulty("network") ? "the double's cable is cut" : ""; }

int ncclGetUniqueId(unique_id *id) {
    static unsigned long made;
    memset(id, 0, sizeof *id);
    pthread_mutex_lock(&lock);
    snprintf(id->internal, sizeof id->internal, "double %lu", ++made);
    pthread_mutex_unlock(&lock);
    note(-1, "ncclGetUniqueId");
    return OK;
}

int ncclCommInitRankConfig(comm **made, int ranks, unique_id id, int rank, config *c) {
    note(rank, "ncclCommInitRankConfig");
    if (c->magic != 0xcafebeef || c->size != sizeof *c || c->blocking != 0 || c->minCTAs != INT_MIN) {
        return INVALID_ARGUMENT;
    }
    if (launch == NULL) {
        void *driver = dlopen("libcuda.so", RTLD_NOW);
        launch = driver == NULL ? NULL : (int (*)(void *, void (*)(void *), void *))dlsym(driver, "cuLaunchHostFunc");
        if (launch == NULL) return SYSTEM_ERROR;
    }
    pthread_mutex_lock(&lock);
    group *g = groups;
    while (g != NULL && memcmp(&g->id, &id, sizeof id) != 0) g = g->next;
    if (g == NULL) {
        g = calloc(1, sizeof *g);
        g->id = id;
        g->ranks = ranks;
        g->next = groups;
        groups = g;
    }
    g->joined++;
    comm *joined = calloc(1, sizeof *joined);
    joined->group = g;
    joined->rank = rank;
    *made = joined;
    pthread_mutex_unlock(&lock);
    return IN_PROGRESS;
}

int ncclCommGetAsyncError(comm *c, int *result) {
    pthread_mutex_lock(&lock);
    int busy = (c->group->joined < c->group->ranks && !faulty("apart")) || c->progress > 0 || faulty("join");
    if (c->progress > 0) c->progress--;
    *result = busy ? IN_PROGRESS : OK;
    if (c->operations > 0 && c->rank == 1 && faulty("network")) *result = REMOTE_ERROR;
    pthread_mutex_unlock(&lock);
    return OK;
}

int ncclCommFinalize(comm *c) {
    note(c->rank, "ncclCommFinalize");
    return OK;
}

int ncclCommDestroy(comm *c) {
    note(c->rank, "ncclCommDestroy");
    return OK;
}

/* What is under way ends, on this rank. */
#ifdef LACKS_ABORT
static
#endif
int ncclCommAbort(comm *c) {
    note(c->rank, "ncclCommAbort");
    pthread_mutex_lock(&lock);
    c->aborted = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return OK;
}

static float as_float(const char *bytes, int type) {
    float value = 0;
    unsigned short high;
    if (type == 7) {
        memcpy(&value, bytes, 4);
    } else {
        memcpy(&high, bytes, 2);
        unsigned bits = (unsigned)high << 16;
        memcpy(&value, &bits, 4);
    }
    return value;
}

static size_t width(int type) { return type == 7 ? 4 : type == 9 ? 2 : 1; }

/* What all ranks' bytes become: once, in rank order. */
static char *combine(operation *o, meeting *m, int ranks) {
    size_t each = o->count * width(o->type), i;
    int reduces = o->kind == 'a' || o->kind == 's', rank;
    size_t elements = o->kind == 's' ? o->count * ranks : o->count;
    char *result = malloc(o->kind == 'g' ? each * ranks + 1 : elements * width(o->type) + 1);
    for (i = 0; reduces && i < elements; i++) {
        float sum = as_float(m->sent[0] + i * width(o->type), o->type);
        for (rank = 1; rank < ranks; rank++) sum += as_float(m->sent[rank] + i * width(o->type), o->type);
        unsigned bits;
        memcpy(&bits, &sum, 4);
        unsigned short high = (unsigned short)(bits >> 16); /* exact sums only: the tests' are */
        memcpy(result + i * width(o->type), o->type == 7 ? (void *)&sum : (void *)&high, width(o->type));
    }
    for (rank = 0; o->kind == 'g' && rank < ranks; rank++) memcpy(result + rank * each, m->sent[rank], each);
    if (o->kind == 'b') memcpy(result, m->sent[o->root], each);
    return result;
}

static void perform(void *argument) {
    operation *o = argument;
    comm *c = o->comm;
    group *g = c->group;
    meeting *m = &g->meetings[o->number % OPERATIONS];
    pthread_mutex_lock(&lock);
    if (faulty("stuck") || faulty("apart") || faulty("network")) {
        while (!c->aborted) pthread_cond_wait(&changed, &lock);
    }
    /* The place of an older operation is free once all have gone from it. */
    while (!c->aborted && m->number != o->number && m->come != m->gone) pthread_cond_wait(&changed, &lock);
    if (!c->aborted) {
        if (m->number != o->number) {
            memset(m, 0, sizeof *m);
            m->number = o->number;
        }
        m->sent[c->rank] = o->sent;
        m->come++;
        if (m->come == g->ranks) m->result = combine(o, m, g->ranks);
        pthread_cond_broadcast(&changed);
        while (!c->aborted && m->result == NULL) pthread_cond_wait(&changed, &lock);
    }
    if (!c->aborted) {
        size_t each = o->count * width(o->type);
        size_t bytes = o->kind == 'g' ? each * g->ranks : each;
        memcpy(o->received, m->result + (o->kind == 's' ? each * c->rank : 0), bytes);
        if (++m->gone == g->ranks) {
            free(m->result);
            m->come = m->gone = 0;
            m->number = 0;
        }
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    free(o);
}

static int begin(comm *c, operation o, const char *call, void *stream) {
    note(c->rank, call);
    operation *made = malloc(sizeof o);
    pthread_mutex_lock(&lock);
    o.comm = c;
    o.number = ++c->operations;
    c->progress = 2;
    pthread_mutex_unlock(&lock);
    *made = o;
    return launch(stream, perform, made) == 0 ? IN_PROGRESS : SYSTEM_ERROR;
}

int ncclAllReduce(const void *sent, void *received, size_t count, int type, int sum, comm *c, void *stream) {
    if (sum != 0) return INVALID_ARGUMENT;
    operation o = {.sent = sent, .received = received, .count = count, .type = type, .kind = 'a'};
    return begin(c, o, "ncclAllReduce", stream);
}

int ncclReduceScatter(const void *sent, void *received, size_t count, int type, int sum, comm *c, void *stream) {
    const char *own = (const char *)sent + (size_t)c->rank * count * width(type);
    if (sum != 0 || received != own) return INVALID_ARGUMENT;
    operation o = {.sent = sent, .received = received, .count = count, .type = type, .kind = 's'};
    return begin(c, o, "ncclReduceScatter", stream);
}

int ncclAllGather(const void *sent, void *received, size_t count, int type, comm *c, void *stream) {
    if (sent != (char *)received + (size_t)c->rank * count * width(type)) return INVALID_ARGUMENT;
    operation o = {.sent = sent, .received = received, .count = count, .type = type, .kind = 'g'};
    return begin(c, o, "ncclAllGather", stream);
}

int ncclBroadcast(const void *sent, void *received, size_t count, int type, int root, comm *c, void *stream) {
    operation o = {.sent = sent, .received = received, .count = count, .type = type, .kind = 'b', .root = root};
    return begin(c, o, "ncclBroadcast", stream);
}
