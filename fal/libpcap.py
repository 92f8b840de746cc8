"""libpcap, loaded when first asked for: its functions, and its words for what went wrong."""

from __future__ import annotations

import errno
from functools import cache
from pathlib import Path
from typing import Any

from fal.errors import FalError

LIBRARY = "libpcap.so.0.8"
FAL_LIBRARY = Path(__file__).parent / "lib" / "pcap" / LIBRARY  # FAL's own, of the same name
DLT_EN10MB = 1  # Ethernet
NETMASK_UNKNOWN = 0xFFFFFFFF
TEXT_SIZE = 256  # PCAP_ERRBUF_SIZE
NANOSECONDS = 1  # PCAP_TSTAMP_PRECISION_NANO
END = -2  # of pcap_next_ex

_DECLARATIONS = """
typedef struct pcap pcap_t;
typedef struct pcap_dumper pcap_dumper_t;

struct pcap_pkthdr {
    long tv_sec, tv_frac; /* its struct timeval: nanoseconds where these were asked for */
    uint32_t caplen, len;
};
struct timeval { long tv_sec, tv_usec; };
struct pcap_stat { unsigned ps_recv, ps_drop, ps_ifdrop; };
typedef struct pcap_if {
    struct pcap_if *next;
    char *name, *description;
    struct pcap_addr *addresses;
    uint32_t flags;
} pcap_if_t;
struct bpf_insn { uint16_t code; uint8_t jt, jf; uint32_t k; };
struct bpf_program { unsigned bf_len; struct bpf_insn *bf_insns; };

const char *pcap_lib_version(void);
int pcap_findalldevs(pcap_if_t **, char *);
void pcap_freealldevs(pcap_if_t *);
int pcap_lookupnet(const char *, uint32_t *, uint32_t *, char *);

pcap_t *pcap_create(const char *, char *);
int pcap_set_snaplen(pcap_t *, int);
int pcap_set_promisc(pcap_t *, int);
int pcap_set_rfmon(pcap_t *, int);
int pcap_set_timeout(pcap_t *, int);
int pcap_set_buffer_size(pcap_t *, int);
int pcap_set_immediate_mode(pcap_t *, int);
int pcap_set_tstamp_precision(pcap_t *, int);
int pcap_activate(pcap_t *);
pcap_t *pcap_open_dead_with_tstamp_precision(int, int, unsigned);
pcap_t *pcap_open_offline_with_tstamp_precision(const char *, unsigned, char *);
void pcap_close(pcap_t *);

int pcap_fanout(pcap_t *, int, const char *); /* FAL's own library alone */
int pcap_compile(pcap_t *, struct bpf_program *, const char *, int, uint32_t);
void pcap_freecode(struct bpf_program *);
int pcap_offline_filter(
    const struct bpf_program *, const struct pcap_pkthdr *, const unsigned char *);
int pcap_setfilter(pcap_t *, struct bpf_program *);
int pcap_setdirection(pcap_t *, int);

int pcap_next_ex(pcap_t *, struct pcap_pkthdr **, unsigned char **);
int pcap_setnonblock(pcap_t *, int, char *);
int pcap_get_selectable_fd(pcap_t *);
const struct timeval *pcap_get_required_select_timeout(pcap_t *);
int pcap_inject(pcap_t *, const void *, size_t);

int pcap_stats(pcap_t *, struct pcap_stat *);
int pcap_datalink(pcap_t *);
int pcap_snapshot(pcap_t *);
int pcap_get_tstamp_precision(pcap_t *);
char *pcap_geterr(pcap_t *);
const char *pcap_statustostr(int);

pcap_dumper_t *pcap_dump_open(pcap_t *, const char *);
void pcap_dump(unsigned char *, const struct pcap_pkthdr *, const unsigned char *);
int pcap_dump_flush(pcap_dumper_t *);
void pcap_dump_close(pcap_dumper_t *);
"""


@cache
def ffi() -> Any:
    """Return the cffi instance that knows libpcap's types."""
    from cffi import FFI  # what needs no libpcap need not wait for it

    made = FFI()
    made.cdef(_DECLARATIONS)
    return made


@cache
def load(what: str) -> Any:
    """Load the system's libpcap; ELIBACC where it is missing, which `what` cannot do."""
    try:
        return ffi().dlopen(LIBRARY)
    except OSError:
        raise FalError(
            errno.ELIBACC, f"{what} need {LIBRARY}, which is not here: apt-get install libpcap0.8"
        ) from None


def line(text: Any) -> str:
    """Return C's text in one line."""
    return " ".join(ffi().string(text).decode(errors="replace").split())


def words(library: Any, handle: Any) -> str:
    """Return libpcap's own words for what went wrong."""
    return line(library.pcap_geterr(handle))
