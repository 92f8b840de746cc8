/* Any bytes as the pcap library's file and environment: an error of one line that says where, or
 * settings that can be asked for.
 *
 * Input: a number of variables modulo 8, so many strings that end with a NUL, and the file.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "pcap/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"

static void check_error(const struct fal_error *err) {
    CHECK(err->code > 0 && err->text[0] && memchr(err->text, 0, sizeof err->text));
    CHECK(!strpbrk(err->text, "\n\r\x1b"));
}

static void check_settings(const struct fal_pcap_config *c, const char *device, uint32_t engine) {
    struct fal_pcap_settings out;
    struct fal_error err = {0};
    if (fal_pcap_config_for(c, device, engine, &out, &err) < 0) {
        check_error(&err);
        return;
    }
    CHECK(out.group >= -1 && out.group <= FAL_MAX_GROUP_ID);
    CHECK(out.group >= 0 || (!out.fanout[0] && !out.filter[0]));
    CHECK(out.caplen <= 262144 && out.ring <= FAL_MAX_RING && !(out.ring & (out.ring - 1)));
    CHECK(engine == FAL_PCAP_PFQ || !strchr(out.fanout, '\n'));
    CHECK(engine > FAL_PCAP_KERNEL || strlen(out.fanout) < FAL_NAME_SIZE);
}

static void check(const struct fal_pcap_config *c) {
    const struct fal_pcap_setting *s;
    CHECK(fal_pcap_config_driver(c)[0] == 0 || fal_pcap_engine_of(fal_pcap_config_driver(c)) >= 0);
    for (uint32_t engine = FAL_PCAP_FAL; engine <= FAL_PCAP_PFQ; engine++) {
        check_settings(c, "eth0:1", engine);
        for (uint32_t i = 0; i < 8 && (s = fal_pcap_config_setting(c, i)); i++)
            check_settings(c, s->device, engine);
    }
    for (uint32_t i = 0; (s = fal_pcap_config_setting(c, i)); i++) {
        CHECK(s->source[0] && s->value[0] && !s->line == !s->column);
        CHECK(s->index >= -1 && s->index <= UINT16_MAX);
        CHECK(fal_pcap_setting_names(s, s->device));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *strings[16] = {0}, path[64];
    size_t count = size ? *data++ % 8 : 0, n = 0;
    size -= size > 0;
    for (; n < count && memchr(data, 0, size); n++) {
        strings[n] = strdup((const char *)data);
        size -= strlen(strings[n]) + 1;
        data += strlen(strings[n]) + 1;
    }
    int fd = memfd_create("config", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "PCAP_CONFIG=/proc/self/fd/%d", fd);
    strings[n] = path;

    char **before = environ;
    environ = strings;
    struct fal_error err = {0};
    struct fal_pcap_config *c = fal_pcap_config_read(&err);
    environ = before;
    strings[n] = NULL;
    for (char **s = strings; *s; s++)
        free(*s); /* what was read is there no more */
    if (c)
        check(c);
    else
        check_error(&err);
    fal_pcap_config_free(c);
    close(fd);
    return 0;
}
