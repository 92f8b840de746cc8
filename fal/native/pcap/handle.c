/* The table of handles.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "handle.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "ring.h"

/* Entries are used again and never freed, so that who looks (a signal handler may) needs no lock:
 * `p` is set last and cleared first. */
struct entry {
    const pcap_t *p; /* NULL: free */
    struct fal_pcap_handle *handle;
    struct entry *next;
};

static struct entry *first;
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;

static struct entry *entry_of(const pcap_t *p) {
    struct entry *e = fal_load_acquire(&first);
    while (e && fal_load_acquire(&e->p) != p)
        e = e->next;
    return e;
}

struct fal_pcap_handle *fal_pcap_find(const pcap_t *p) {
    struct entry *e = p ? entry_of(p) : NULL;
    return e ? e->handle : NULL;
}

struct fal_pcap_handle *fal_pcap_own(const pcap_t *p) {
    struct fal_pcap_handle *h = fal_pcap_find(p);
    return h && h->ops == &fal_pcap_fal ? h : NULL;
}

struct fal_pcap_handle *fal_pcap_add(pcap_t *p, const struct fal_pcap_handle *as) {
    struct fal_pcap_handle *h = malloc(sizeof *h);
    if (!h)
        return NULL;
    *h = *as;
    h->p = p;
    pthread_mutex_lock(&changing);
    struct entry *e = entry_of(NULL);
    if (!e && (e = calloc(1, sizeof *e))) {
        e->next = first;
        fal_store_release(&first, e);
    }
    if (e) {
        e->handle = h;
        fal_store_release(&e->p, p);
    }
    pthread_mutex_unlock(&changing);
    if (e)
        return h;
    free(h);
    return NULL;
}

void fal_pcap_forget(struct fal_pcap_handle *h) {
    pthread_mutex_lock(&changing);
    fal_store_release(&entry_of(h->p)->p, NULL);
    pthread_mutex_unlock(&changing);
    fal_close(h->socket);
    free(h->packet);
    free(h);
}

int fal_pcap_say(const struct fal_pcap_handle *h, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(fal_pcap_real.pcap_geterr(h->p), PCAP_ERRBUF_SIZE, format, args);
    va_end(args);
    return PCAP_ERROR;
}

int fal_pcap_fail(const struct fal_pcap_handle *h, const struct fal_error *err) {
    return fal_pcap_say(h, "%s", err->text);
}

bool fal_pcap_active(const struct fal_pcap_handle *h, int *result) {
    *result = PCAP_ERROR_NOT_ACTIVATED;
    if (!h->active)
        fal_pcap_say(h, "This handle hasn't been activated yet");
    return h->active;
}

bool fal_pcap_too_late(const struct fal_pcap_handle *h) {
    if (h->active)
        fal_pcap_say(h, "can't perform  operation on activated capture");
    return h->active;
}
