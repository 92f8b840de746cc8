/* Programs in the manner of some that are not installed for the tests: the calls that they make of
 * libpcap, in their order, and nothing else.
 *
 *     patterns PATTERN DEVICE COUNT FILTER TIMEOUT
 *
 * "ready" is the first line.  Then a line for each packet, "packet 000123 end" of its payload,
 * until there were COUNT; then, of those that wait by themselves, "empty N": how often there was
 * nothing although they were told that there is something.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <grp.h>
#include <pcap/pcap.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <unistd.h>

static pcap_t *p;
static int wanted, seen, empty, timeout;
static const char *device, *expression;

static void die(const char *what, const char *why) {
    printf("%s: %s\n", what, why);
    exit(1);
}

static void check(int result, const char *what) {
    if (result < 0)
        die(what, pcap_geterr(p));
}

static pcap_t *opened(void) {
    char error[PCAP_ERRBUF_SIZE] = "";
    pcap_t *handle = pcap_open_live(device, 65535, 1, timeout, error);
    if (!handle)
        die("pcap_open_live", error);
    return handle;
}

static void set_filter(const char *words) {
    struct bpf_program program;
    check(pcap_compile(p, &program, words, 1, PCAP_NETMASK_UNKNOWN), "pcap_compile");
    check(pcap_setfilter(p, &program), "pcap_setfilter");
    pcap_freecode(&program);
}

static void nonblocking(void) {
    char error[PCAP_ERRBUF_SIZE];
    if (pcap_setnonblock(p, 1, error) < 0)
        die("pcap_setnonblock", error);
    if (pcap_getnonblock(p, error) != 1)
        die("pcap_getnonblock", "not 1");
}

static int descriptor(void) {
    int fd = pcap_get_selectable_fd(p);
    if (fd < 0)
        die("pcap_get_selectable_fd", "none");
    return fd;
}

static void ready(void) {
    puts("ready");
    fflush(stdout);
}

static void show(u_char *user, const struct pcap_pkthdr *header, const u_char *data) {
    (void)user;
    const u_char *text = memmem(data, header->caplen, "packet ", 7);
    printf("%.*s\n", 17, text ? (const char *)text : "another");
    fflush(stdout);
    seen++;
}

/* Returns what dispatch did; that there was nothing is counted. */
static int dispatch(int count) {
    int n = pcap_dispatch(p, count, show, NULL);
    if (n < 0)
        die("pcap_dispatch", pcap_geterr(p));
    empty += n == 0;
    return n;
}

/* ---- waiting by themselves ------------------------------------------------------------------- */

/* dumpcap: select, then one packet. */
static void select_and_one(void) {
    int fd = descriptor();
    ready();
    while (seen < wanted) {
        fd_set set;
        FD_ZERO(&set);
        FD_SET(fd, &set);
        if (select(fd + 1, &set, NULL, NULL, NULL) > 0)
            dispatch(1);
    }
}

/* Zeek: not blocking, next_ex until there is none. */
static void select_and_next_ex(void) {
    nonblocking();
    struct pollfd poller = {.fd = descriptor(), .events = POLLIN};
    ready();
    while (seen < wanted) {
        struct pcap_pkthdr *header;
        const u_char *data;
        int n, before = seen;
        poll(&poller, 1, -1);
        while ((n = pcap_next_ex(p, &header, &data)) == 1)
            show(NULL, header, data);
        check(n, "pcap_next_ex");
        empty += seen == before;
    }
}

/* softflowd: waits for packets as long as it takes, and beside them for what it is asked; argus,
 * darkstat. */
static void beside_another(void) {
    struct pollfd both[] = {{.fd = descriptor(), .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    char asked[64];
    ready();
    while (seen < wanted) {
        poll(both, 2, -1);
        if (both[1].revents && read(0, asked, sizeof asked) > 0) {
            puts("answer");
            fflush(stdout);
        }
        if (both[0].revents)
            dispatch(-1);
    }
}

static void by_epoll(uint32_t events, int count) {
    nonblocking();
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = events};
    epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor(), &event);
    ready();
    while (seen < wanted) {
        epoll_wait(epoll, &event, 1, -1);
        int n = dispatch(count);
        while (n && events & EPOLLET && (n = pcap_dispatch(p, count, show, NULL)) > 0)
            ;
        check(n, "pcap_dispatch");
    }
}

static void epoll_level(void) {
    by_epoll(EPOLLIN, -1);
}
static void epoll_level_of_three(void) {
    by_epoll(EPOLLIN, 3);
}
static void epoll_level_of_all(void) {
    by_epoll(EPOLLIN, 0);
}
static void epoll_edge(void) {
    by_epoll(EPOLLIN | EPOLLET, -1);
}

/* ---- waiting in libpcap ---------------------------------------------------------------------- */

static void loop(void) {
    ready();
    check(pcap_loop(p, wanted, show, NULL), "pcap_loop");
}

static void dispatch_of_one(void) {
    ready();
    while (seen < wanted)
        dispatch(1);
    empty = 0; /* at each time-out */
}

/* hping3. */
static void next(void) {
    ready();
    while (seen < wanted) {
        struct pcap_pkthdr header;
        const u_char *data = pcap_next(p, &header);
        if (data)
            show(NULL, &header, data);
    }
}

/* ---- openings -------------------------------------------------------------------------------- */

/* urlsnarf: opens twice, reads once. */
static void opens_twice(void) {
    pcap_t *first = p;
    p = opened();
    set_filter(expression);
    loop();
    pcap_close(first);
}

/* darkstat: opens, looks, opens again. */
static void opens_again(void) {
    if (pcap_datalink(p) != DLT_EN10MB)
        die("pcap_datalink", "not Ethernet");
    pcap_close(p);
    p = opened();
    set_filter(expression);
    loop();
}

/* p0f, httpry: the child reads. */
static void forks(void) {
    pid_t child = fork();
    if (child == 0) {
        loop();
        exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    seen = wanted;
    if (status != 0)
        exit(1);
}

/* Suricata: no longer root when it activates. */
static void drops_before(void) {
    char error[PCAP_ERRBUF_SIZE];
    pcap_close(p);
    if (!(p = pcap_create(device, error)))
        die("pcap_create", error);
    pcap_set_snaplen(p, 65535);
    pcap_set_timeout(p, 100);
    if (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0)
        die("setuid", strerror(errno));
    int n = pcap_activate(p);
    if (n < 0) {
        printf("%d %s\n", n, pcap_geterr(p));
        exit(0);
    }
    set_filter(expression);
    loop();
}

/* tcpdump, ngrep, argus: no longer root when they read. */
static void drops_after(void) {
    if (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0)
        die("setuid", strerror(errno));
    loop();
}

/* ---- ends ------------------------------------------------------------------------------------ */

static void on_signal(int number) {
    (void)number;
    pcap_breakloop(p);
}

static void until_broken(void) {
    ready();
    int n = pcap_loop(p, -1, show, NULL);
    printf("loop %d\n", n);
    wanted = seen;
}

static void break_in_handler(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    until_broken();
}

static void *breaker(void *unused) {
    (void)unused;
    int number;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigwait(&set, &number);
    pcap_breakloop(p);
    return NULL;
}

static void break_in_thread(void) {
    pthread_t thread;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_create(&thread, NULL, breaker, NULL);
    until_broken();
    pthread_join(thread, NULL);
}

static void break_in_callback_of_third(u_char *user, const struct pcap_pkthdr *h, const u_char *d) {
    show(user, h, d);
    if (seen == 3)
        pcap_breakloop(p);
}

/* What was left comes at the next read. */
static void break_in_callback(void) {
    ready();
    int n = pcap_loop(p, -1, break_in_callback_of_third, NULL);
    printf("loop %d after %d\n", n, seen);
    check(pcap_loop(p, wanted - seen, show, NULL), "pcap_loop");
}

/* ---- others ---------------------------------------------------------------------------------- */

/* Half of what it wants by one filter, the rest by another. */
static void another_filter(void) {
    ready();
    check(pcap_loop(p, wanted / 2, show, NULL), "pcap_loop");
    set_filter("udp dst port 5001");
    puts("another filter");
    fflush(stdout);
    check(pcap_loop(p, wanted - seen, show, NULL), "pcap_loop");
}

static void incoming_only(void) {
    check(pcap_setdirection(p, PCAP_D_IN), "pcap_setdirection");
    loop();
}

/* tcpreplay and the like send by the handle that they have. */
static void sends(void) {
    struct pcap_pkthdr *header;
    const u_char *data;
    ready();
    while (seen < wanted) {
        int n = pcap_next_ex(p, &header, &data);
        check(n, "pcap_next_ex");
        if (n == 1) {
            show(NULL, header, data);
            if (pcap_inject(p, data, header->caplen) != (int)header->caplen)
                die("pcap_inject", pcap_geterr(p));
        }
    }
}

/* The books: what it read is what libpcap says. */
static void counts(void) {
    struct pcap_stat stats;
    loop();
    check(pcap_stats(p, &stats), "pcap_stats");
    printf("recv %u drop %u ifdrop %u\n", stats.ps_recv, stats.ps_drop, stats.ps_ifdrop);
}

static const struct {
    const char *name;
    void (*run)(void);
} PATTERNS[] = {
    {"select_and_one", select_and_one},
    {"select_and_next_ex", select_and_next_ex},
    {"beside_another", beside_another},
    {"epoll_level", epoll_level},
    {"epoll_level_of_three", epoll_level_of_three},
    {"epoll_level_of_all", epoll_level_of_all},
    {"epoll_edge", epoll_edge},
    {"loop", loop},
    {"dispatch_of_one", dispatch_of_one},
    {"next", next},
    {"opens_twice", opens_twice},
    {"opens_again", opens_again},
    {"forks", forks},
    {"drops_before", drops_before},
    {"drops_after", drops_after},
    {"break_in_handler", break_in_handler},
    {"break_in_thread", break_in_thread},
    {"break_in_callback", break_in_callback},
    {"another_filter", another_filter},
    {"incoming_only", incoming_only},
    {"sends", sends},
    {"counts", counts},
};

int main(int argc, char **argv) {
    if (argc != 6)
        return 2;
    device = argv[2];
    wanted = atoi(argv[3]);
    expression = argv[4];
    timeout = atoi(argv[5]);
    for (size_t i = 0; i < sizeof PATTERNS / sizeof *PATTERNS; i++)
        if (strcmp(PATTERNS[i].name, argv[1]) == 0) {
            p = opened();
            set_filter(expression);
            PATTERNS[i].run();
            printf("empty %d\n", empty);
            pcap_close(p);
            return seen == wanted ? 0 : 1;
        }
    return 2;
}
