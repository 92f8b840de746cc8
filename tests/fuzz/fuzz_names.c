/* Any text as the name of a device: an error, or devices whose keys give the name again.
 *
 * Input: which driver, and the text.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "pcap/names.h"

#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const drivers[] = {"", "fal", "tpacket", "pfring", "zc", "pfq", "other"};
    if (!size)
        return 0;
    char *text = malloc(size), keys[4096] = "";
    struct fal_pcap_name *out = malloc(sizeof *out);
    struct fal_error err = {0};
    memcpy(text, data + 1, size - 1);
    text[size - 1] = 0;
    if (fal_pcap_name_parse(text, drivers[*data % 7], out, &err) < 0) {
        CHECK(err.code > 0 && err.text[0] && memchr(err.text, 0, sizeof err.text));
    } else {
        CHECK(out->engine <= FAL_PCAP_PFQ && out->devices >= 1 && out->devices <= FAL_MAX_DEVICES);
        for (uint32_t i = 0; i < out->devices; i++) {
            const struct fal_pcap_device *d = &out->device[i];
            size_t length = strlen(d->name);
            const char *number = d->key + length;
            CHECK(!strncmp(d->key, d->name, length));
            CHECK(!*number ||
                  (*number == ':' && number[1] && !number[1 + strspn(number + 1, "0123456789")]));
            CHECK(length || out->engine == FAL_PCAP_KERNEL);
            strcat(strcat(keys, i ? "^" : ""), d->key);
        }
        size_t behind = strlen(text) - strlen(keys);
        CHECK(behind <= sizeof "tpacket" && !strcmp(text + behind, keys));
        CHECK(!behind || text[behind - 1] == ':');
        fal_pcap_engine_check(out->engine, &err);
    }
    free(out);
    free(text);
    return 0;
}
