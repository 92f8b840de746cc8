/* A program written for pcap_fanout: four threads, each with a handle in one group.
 *
 * Usage: pcap_threads DEVICE GROUP FANOUT COUNT.  Says "ready", and when COUNT packets are there,
 * and a moment has passed in which more would have come, "THREAD NUMBER" of each packet. */
#include <endian.h>
#include <err.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <pcap/fanout.h>

#define THREADS 4
#define MOST    10000
#define NUMBER  42 /* where it lies in a packet */

static struct worker {
    pcap_t *p;
    pthread_t thread;
    unsigned count;
    uint64_t numbers[MOST];
} workers[THREADS];
static atomic_uint total;

static void take(u_char *user, const struct pcap_pkthdr *header, const u_char *data) {
    struct worker *w = (struct worker *)user;
    uint64_t number;
    if (header->caplen < NUMBER + sizeof number || w->count == MOST)
        errx(1, "a packet of %u bytes, after %u", header->caplen, w->count);
    memcpy(&number, data + NUMBER, sizeof number);
    w->numbers[w->count++] = be64toh(number);
    total++;
}

static void *work(void *arg) {
    struct worker *w = arg;
    if (pcap_loop(w->p, -1, take, arg) != PCAP_ERROR_BREAK)
        errx(1, "%s", pcap_geterr(w->p));
    return NULL;
}

int main(int argc, char **argv) {
    char text[PCAP_ERRBUF_SIZE];
    if (argc != 5)
        errx(1, "usage: pcap_threads DEVICE GROUP FANOUT COUNT");
    for (struct worker *w = workers; w < workers + THREADS; w++) {
        if (!(w->p = pcap_open_live(argv[1], 65535, 1, 10, text)))
            errx(1, "%s", text);
        if (pcap_fanout(w->p, atoi(argv[2]), argv[3]) < 0)
            errx(1, "%s", pcap_geterr(w->p));
    }
    for (struct worker *w = workers; w < workers + THREADS; w++)
        if (pcap_get_selectable_fd(w->p) < 0 || pthread_create(&w->thread, NULL, work, w))
            errx(1, "cannot start a thread");
    puts("ready");
    fflush(stdout);
    while (total < (unsigned)atoi(argv[4]))
        usleep(1000);
    usleep(100000);
    for (struct worker *w = workers; w < workers + THREADS; w++) {
        pcap_breakloop(w->p);
        pthread_join(w->thread, NULL);
        pcap_close(w->p);
        for (unsigned i = 0; i < w->count; i++)
            printf("%td %ju\n", w - workers, (uintmax_t)w->numbers[i]);
    }
    return 0;
}
