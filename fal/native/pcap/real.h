/* The real libpcap, behind ours: every function that it exports, by name.
 *
 * It is opened by its absolute path, into a scope of its own: its functions call one another through
 * its own table, and would otherwise call ours of the same names.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_PCAP_REAL_H
#define FAL_PCAP_REAL_H

#include <stdio.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#include <pcap/pcap.h>

#include <pcap/namedb.h>                     /* which wants it before */
bpf_u_int32 **pcap_nametoaddr(const char *); /* exported, and declared nowhere */

/* Functions with a body of ours. */
#define FAL_PCAP_OWN(F)                                                                            \
    F(pcap_activate)                                                                               \
    F(pcap_breakloop)                                                                              \
    F(pcap_bufsize)                                                                                \
    F(pcap_can_set_rfmon)                                                                          \
    F(pcap_close)                                                                                  \
    F(pcap_compile)                                                                                \
    F(pcap_create)                                                                                 \
    F(pcap_datalink)                                                                               \
    F(pcap_datalink_ext)                                                                           \
    F(pcap_dispatch)                                                                               \
    F(pcap_dump_fopen)                                                                             \
    F(pcap_dump_open)                                                                              \
    F(pcap_dump_open_append)                                                                       \
    F(pcap_fileno)                                                                                 \
    F(pcap_findalldevs)                                                                            \
    F(pcap_freealldevs)                                                                            \
    F(pcap_get_selectable_fd)                                                                      \
    F(pcap_get_tstamp_precision)                                                                   \
    F(pcap_getnonblock)                                                                            \
    F(pcap_inject)                                                                                 \
    F(pcap_is_swapped)                                                                             \
    F(pcap_list_datalinks)                                                                         \
    F(pcap_lookupnet)                                                                              \
    F(pcap_loop)                                                                                   \
    F(pcap_major_version)                                                                          \
    F(pcap_minor_version)                                                                          \
    F(pcap_next)                                                                                   \
    F(pcap_next_ex)                                                                                \
    F(pcap_open_live)                                                                              \
    F(pcap_sendpacket)                                                                             \
    F(pcap_set_buffer_size)                                                                        \
    F(pcap_set_datalink)                                                                           \
    F(pcap_set_immediate_mode)                                                                     \
    F(pcap_set_promisc)                                                                            \
    F(pcap_set_protocol_linux)                                                                     \
    F(pcap_set_rfmon)                                                                              \
    F(pcap_set_snaplen)                                                                            \
    F(pcap_set_timeout)                                                                            \
    F(pcap_set_tstamp_precision)                                                                   \
    F(pcap_set_tstamp_type)                                                                        \
    F(pcap_setdirection)                                                                           \
    F(pcap_setfilter)                                                                              \
    F(pcap_setnonblock)                                                                            \
    F(pcap_snapshot)                                                                               \
    F(pcap_stats)

/* Functions that are libpcap's: what they return, their names, parameters and arguments. */
#define FAL_PCAP_FORWARDED(F)                                                                      \
    F(void, bpf_dump, (const struct bpf_program *p, int option), (p, option))                      \
    F(u_int, bpf_filter, (const struct bpf_insn *i, const u_char *p, u_int len, u_int caplen),     \
      (i, p, len, caplen))                                                                         \
    F(char *, bpf_image, (const struct bpf_insn *i, int n), (i, n))                                \
    F(int, bpf_validate, (const struct bpf_insn *f, int len), (f, len))                            \
    F(const struct timeval *, pcap_get_required_select_timeout, (pcap_t * p), (p))                 \
    F(int, pcap_list_tstamp_types, (pcap_t * p, int **list), (p, list))                            \
    F(int, pcap_compile_nopcap,                                                                    \
      (int snaplen, int dlt, struct bpf_program *program, const char *text, int optimize,          \
       bpf_u_int32 netmask),                                                                       \
      (snaplen, dlt, program, text, optimize, netmask))                                            \
    F(int, pcap_datalink_name_to_val, (const char *name), (name))                                  \
    F(const char *, pcap_datalink_val_to_description, (int dlt), (dlt))                            \
    F(const char *, pcap_datalink_val_to_description_or_dlt, (int dlt), (dlt))                     \
    F(const char *, pcap_datalink_val_to_name, (int dlt), (dlt))                                   \
    F(void, pcap_dump, (u_char * d, const struct pcap_pkthdr *h, const u_char *data),              \
      (d, h, data))                                                                                \
    F(void, pcap_dump_close, (pcap_dumper_t * d), (d))                                             \
    F(FILE *, pcap_dump_file, (pcap_dumper_t * d), (d))                                            \
    F(int, pcap_dump_flush, (pcap_dumper_t * d), (d))                                              \
    F(long, pcap_dump_ftell, (pcap_dumper_t * d), (d))                                             \
    F(int64_t, pcap_dump_ftell64, (pcap_dumper_t * d), (d))                                        \
    F(u_char *, pcap_ether_aton, (const char *text), (text))                                       \
    F(u_char *, pcap_ether_hostton, (const char *name), (name))                                    \
    F(FILE *, pcap_file, (pcap_t * p), (p))                                                        \
    F(pcap_t *, pcap_fopen_offline, (FILE * file, char *errbuf), (file, errbuf))                   \
    F(pcap_t *, pcap_fopen_offline_with_tstamp_precision,                                          \
      (FILE * file, u_int precision, char *errbuf), (file, precision, errbuf))                     \
    F(void, pcap_free_datalinks, (int *list), (list))                                              \
    F(void, pcap_free_tstamp_types, (int *list), (list))                                           \
    F(void, pcap_freecode, (struct bpf_program * program), (program))                              \
    F(char *, pcap_geterr, (pcap_t * p), (p))                                                      \
    F(int, pcap_init, (unsigned options, char *errbuf), (options, errbuf))                         \
    F(const char *, pcap_lib_version, (void), ())                                                  \
    F(char *, pcap_lookupdev, (char *errbuf), (errbuf))                                            \
    F(bpf_u_int32 **, pcap_nametoaddr, (const char *name), (name))                                 \
    F(struct addrinfo *, pcap_nametoaddrinfo, (const char *name), (name))                          \
    F(int, pcap_nametoeproto, (const char *name), (name))                                          \
    F(int, pcap_nametollc, (const char *name), (name))                                             \
    F(bpf_u_int32, pcap_nametonetaddr, (const char *name), (name))                                 \
    F(int, pcap_nametoport, (const char *name, int *port, int *protocol), (name, port, protocol))  \
    F(int, pcap_nametoportrange, (const char *name, int *first, int *last, int *protocol),         \
      (name, first, last, protocol))                                                               \
    F(int, pcap_nametoproto, (const char *name), (name))                                           \
    F(struct pcap_etherent *, pcap_next_etherent, (FILE * file), (file))                           \
    F(int, pcap_offline_filter,                                                                    \
      (const struct bpf_program *program, const struct pcap_pkthdr *h, const u_char *data),        \
      (program, h, data))                                                                          \
    F(pcap_t *, pcap_open_dead, (int dlt, int snaplen), (dlt, snaplen))                            \
    F(pcap_t *, pcap_open_dead_with_tstamp_precision, (int dlt, int snaplen, u_int precision),     \
      (dlt, snaplen, precision))                                                                   \
    F(pcap_t *, pcap_open_offline, (const char *file, char *errbuf), (file, errbuf))               \
    F(pcap_t *, pcap_open_offline_with_tstamp_precision,                                           \
      (const char *file, u_int precision, char *errbuf), (file, precision, errbuf))                \
    F(void, pcap_perror, (pcap_t * p, const char *prefix), (p, prefix))                            \
    F(const char *, pcap_statustostr, (int status), (status))                                      \
    F(const char *, pcap_strerror, (int error), (error))                                           \
    F(int, pcap_tstamp_type_name_to_val, (const char *name), (name))                               \
    F(const char *, pcap_tstamp_type_val_to_description, (int type), (type))                       \
    F(const char *, pcap_tstamp_type_val_to_name, (int type), (type))

#define FAL_PCAP_FIELD(name)                      __typeof__(name) *name;
#define FAL_PCAP_FORWARDED_FIELD(type, name, ...) FAL_PCAP_FIELD(name)

struct fal_pcap_real {
    FAL_PCAP_OWN(FAL_PCAP_FIELD)
    FAL_PCAP_FORWARDED(FAL_PCAP_FORWARDED_FIELD)
};
#pragma GCC diagnostic pop

extern struct fal_pcap_real fal_pcap_real;

#endif
