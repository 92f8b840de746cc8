/* SPDX-License-Identifier: BSD-3-Clause */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "../modes.h"

#define FILE_SIZE (1 << 20)
#define SETTINGS  4096   /* of file and environment together */
#define SNAPLEN   262144 /* libpcap's largest */
#define CPUS      8192   /* the kernel's most */
#define COUNT(a)  (sizeof(a) / sizeof *(a))

enum about { PROCESS, GROUP, DEVICE, CHANNEL /* DEVICE.CHANNEL */ };
enum kind { TEXT, NUMBER, POWER_OF_2, CPU_LIST, ENGINE };

/* The words of the file, in lower case, and of the environment, behind PCAP_.  What they are about
 * stands behind them. */
static const struct word {
    const char *key, *variable; /* "": has none */
    enum fal_pcap_key means;
    enum about about;
    enum kind kind;
    uint32_t least, most;
} words[] = {
    {"group", "GROUP", FAL_PCAP_GROUP, PROCESS, NUMBER, 0, FAL_MAX_GROUP_ID},
    {"def_group", "DEF_GROUP", FAL_PCAP_GROUP, PROCESS, NUMBER, 0, FAL_MAX_GROUP_ID},
    {"group_", "GROUP_", FAL_PCAP_GROUP, DEVICE, NUMBER, 0, FAL_MAX_GROUP_ID},
    {"fanout", "FANOUT", FAL_PCAP_FANOUT, PROCESS, TEXT},
    {"fanout@", "", FAL_PCAP_FANOUT, GROUP, TEXT},
    {"filter", "", FAL_PCAP_FILTER, PROCESS, TEXT},
    {"filter@", "", FAL_PCAP_FILTER, GROUP, TEXT},
    {"caplen", "CAPLEN", FAL_PCAP_CAPLEN, PROCESS, NUMBER, 1, SNAPLEN},
    {"rx_slots", "", FAL_PCAP_RX_SLOTS, PROCESS, POWER_OF_2, FAL_MIN_RING, FAL_MAX_RING},
    {"pfq_rx_slots", "", FAL_PCAP_RX_SLOTS, PROCESS, POWER_OF_2, FAL_MIN_RING, FAL_MAX_RING},
    {"", "CHANNEL_", FAL_PCAP_CHANNELS, DEVICE, NUMBER, 1, UINT16_MAX},
    {"rx_channels@", "", FAL_PCAP_RX_CHANNELS, DEVICE, NUMBER, 0, UINT16_MAX},
    {"tx_channels@", "", FAL_PCAP_TX_CHANNELS, DEVICE, NUMBER, 0, UINT16_MAX},
    {"combined_channels@", "", FAL_PCAP_COMBINED_CHANNELS, DEVICE, NUMBER, 0, UINT16_MAX},
    {"other_channels@", "", FAL_PCAP_OTHER_CHANNELS, DEVICE, NUMBER, 0, UINT16_MAX},
    {"irq@", "IRQ_", FAL_PCAP_IRQ, CHANNEL, CPU_LIST},
    {"", "CONFIG", FAL_PCAP_CONFIG, PROCESS, TEXT},
    {"", "DRIVER", FAL_PCAP_DRIVER, PROCESS, ENGINE},
    {"pfq_tx_slots", "", FAL_PCAP_PFQ_TX_SLOTS, PROCESS, TEXT},
    {"pfq_tx_sync", "", FAL_PCAP_PFQ_TX_SYNC, PROCESS, TEXT},
    {"pfq_tx_hw_queue", "", FAL_PCAP_PFQ_TX_HW_QUEUE, PROCESS, TEXT},
    {"pfq_tx_idx_thread", "", FAL_PCAP_PFQ_TX_IDX_THREAD, PROCESS, TEXT},
    {"pfq_vlan", "", FAL_PCAP_PFQ_VLAN, PROCESS, TEXT},
    {"pfq_vlan@", "", FAL_PCAP_PFQ_VLAN, GROUP, TEXT},
};

struct fal_pcap_config {
    char *file;            /* its text, cut into words */
    char *program, *begun; /* lines of PFQ-Lang, and where the next one goes */
    char *variable[SETTINGS];
    uint32_t variables, count;
    struct fal_pcap_setting setting[SETTINGS];
};

/* ---- errors ---------------------------------------------------------------------------------- */

/* So much of a path as leaves room for what is wrong. */
static const char *end_of(const char *path) {
    size_t length = strlen(path);
    return length > 100 ? path + length - 100 : path;
}

__attribute__((format(printf, 3, 4))) static int
wrong(const struct fal_pcap_setting *s, struct fal_error *err, const char *format, ...) {
    char what[FAL_ERROR_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (s->line)
        return fal_fail(err, EINVAL, "%s:%u:%u: %s", end_of(s->source), s->line, s->column, what);
    return fal_fail(err, EINVAL, "%s: %s", end_of(s->source), what);
}

int fal_pcap_setting_wrong(const struct fal_pcap_setting *s, const char *what,
                           struct fal_error *err) {
    return wrong(s, err, "%s", what);
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Reads digits, and moves behind them; false: there are none, or they come to more than `most`. */
static bool number(const char **text, uint32_t most, uint32_t *out) {
    const char *p = *text;
    uint64_t n = 0;
    while (*p >= '0' && *p <= '9' && n <= most)
        n = n * 10 + (uint64_t)(*p++ - '0');
    bool some = p > *text;
    *text = p;
    *out = (uint32_t)n;
    return some && n <= most;
}

static bool whole_number(const char *text, uint32_t most, uint32_t *out) {
    return number(&text, most, out) && !*text;
}

static bool cpu_list(const char *p) {
    uint32_t first, last;
    do {
        p += strspn(p, " \t");
        if (!number(&p, CPUS - 1, &first) ||
            (*p == '-' && (p++, !number(&p, CPUS - 1, &last) || last < first)))
            return false;
        p += strspn(p, " \t");
    } while (*p++ == ',');
    return !p[-1];
}

static void squeeze(char *text) {
    char *to = text;
    for (; *text; text++)
        if (*text != ' ' && *text != '\t')
            *to++ = *text;
    *to = 0;
}

static int check_value(const struct word *w, struct fal_pcap_setting *s, char *value,
                       struct fal_error *err) {
    s->value = value;
    if (!*value)
        return wrong(s, err, "there is no value");
    switch (w->kind) {
    case NUMBER:
    case POWER_OF_2:
        if (whole_number(value, w->most, &s->number) && s->number >= w->least &&
            !(w->kind == POWER_OF_2 && s->number & (s->number - 1)))
            return 0;
        return wrong(s, err, "'%.40s' is no %s from %u to %u", value,
                     w->kind == NUMBER ? "number" : "power of two", w->least, w->most);
    case CPU_LIST:
        if (!cpu_list(value))
            return wrong(s, err, "'%.40s' is no list of CPUs (write 0, 2-4)", value);
        squeeze(value);
        return 0;
    case ENGINE:
        if (fal_pcap_engine_of(value) < 0)
            return wrong(s, err, "there is no engine '%.40s' (there are fal and tpacket)", value);
        return 0;
    case TEXT:
        break;
    }
    return 0;
}

/* What the word is about: "2", "eth0", "eth0.1" (of a variable "eth0_1"). */
static int check_about(const struct word *w, struct fal_pcap_setting *s, char *about,
                       struct fal_error *err) {
    char *last = strrchr(about, s->line ? '.' : '_');
    uint32_t n;
    s->index = -1;
    s->device = w->about == DEVICE || w->about == CHANNEL ? about : "";
    if (w->about == GROUP || w->about == CHANNEL) {
        const char *digits = w->about == GROUP ? about : last ? last + 1 : "";
        if (!whole_number(digits, UINT16_MAX, &n))
            return wrong(s, err, "'%.40s' is no %s", about,
                         w->about == GROUP ? "group: ids are 0 to 65535"
                         : s->line         ? "DEVICE.CHANNEL"
                                           : "DEVICE_CHANNEL");
        s->index = (int32_t)n;
    }
    if (w->about == CHANNEL)
        *last = 0;
    if ((w->about == DEVICE || w->about == CHANNEL) && (!*about || strpbrk(about, " \t")))
        return wrong(s, err, "'%.40s' is no device", about);
    return 0;
}

/* ---- keeping them ---------------------------------------------------------------------------- */

/* Whether a variable's device is this one: exactly, or with "_" for all but letters and digits. */
static bool folded(const char *variable, const char *device) {
    for (; *variable && *device; variable++, device++) {
        bool plain = (*device >= '0' && *device <= '9') || (*device >= 'a' && *device <= 'z') ||
                     (*device >= 'A' && *device <= 'Z');
        if (*variable != (plain ? *device : '_'))
            return false;
    }
    return *variable == *device;
}

int fal_pcap_setting_names(const struct fal_pcap_setting *s, const char *device) {
    return !strcmp(s->device, device) || (!s->line && folded(s->device, device));
}

/* Whether a variable stands for what the file says. */
static bool replaces(const struct fal_pcap_setting *v, const struct fal_pcap_setting *s) {
    bool same = v->key == s->key ||
                (v->key == FAL_PCAP_CHANNELS &&
                 (s->key == FAL_PCAP_RX_CHANNELS || s->key == FAL_PCAP_COMBINED_CHANNELS));
    return same && v->index == s->index && fal_pcap_setting_names(v, s->device);
}

static int keep(struct fal_pcap_config *c, const struct fal_pcap_setting *new,
                struct fal_error *err) {
    for (struct fal_pcap_setting *s = c->setting; s < c->setting + c->count; s++) {
        if (new->line && !s->line && replaces(s, new))
            return 0;
        if (!new->line != !s->line || s->key != new->key || s->index != new->index ||
            strcmp(s->device, new->device))
            continue;
        if (!strcmp(s->value, new->value))
            return 0;
        if (s->line)
            return wrong(new, err, "line %u says another value: take one out", s->line);
        return wrong(new, err, "%s says another value: take one out", end_of(s->source));
    }
    if (c->count == SETTINGS)
        return wrong(new, err, "there are more than %d settings", SETTINGS);
    c->setting[c->count++] = *new;
    return 0;
}

/* What is said of this very device and index. */
static const struct fal_pcap_setting *find(const struct fal_pcap_config *c, uint32_t key,
                                           const char *device, int32_t index) {
    const struct fal_pcap_setting *found = NULL;
    for (const struct fal_pcap_setting *s = c->setting; s < c->setting + c->count; s++)
        if (s->key == key && s->index == index && fal_pcap_setting_names(s, device))
            if (!found || !strcmp(s->device, device))
                found = s;
    return found;
}

/* ---- file and environment -------------------------------------------------------------------- */

static char *trim(char *text) {
    text += strspn(text, " \t");
    size_t length = strlen(text);
    while (length > 0 && (text[length - 1] == ' ' || text[length - 1] == '\t'))
        length--;
    text[length] = 0;
    return text;
}

/* Not strncasecmp: that follows the program's locale, and these words must not. */
static bool begins(const char *text, const char *word) {
    for (; *word; text++, word++)
        if (*word != (*text >= 'A' && *text <= 'Z' ? *text - 'A' + 'a' : *text))
            return false;
    return true;
}

/* The word that a key or a variable is, or begins with; *about: what is behind it. */
static const struct word *find_word(char *text, bool variable, char **about) {
    for (const struct word *w = words; w < words + COUNT(words); w++) {
        const char *word = variable ? w->variable : w->key;
        size_t length = strlen(word);
        if (length && (variable ? !strncmp(text, word, length) : begins(text, word)) &&
            (w->about != PROCESS || !text[length])) {
            *about = text + length;
            return w;
        }
    }
    return NULL;
}

/* The length of what is text, of `length` bytes. */
static size_t plain_text(const char *text, size_t length, bool lines) {
    size_t n = 0;
    while (n < length && (text[n] == '\t' || (lines && text[n] == '\n') ||
                          ((unsigned char)text[n] >= ' ' && text[n] != 0x7f)))
        n++;
    return n;
}

/* Columns: 0 of a variable. */
static int take(struct fal_pcap_config *c, const struct word *w, struct fal_pcap_setting *s,
                char *about, uint32_t about_column, char *value, uint32_t value_column,
                struct fal_error *err) {
    s->key = w->means;
    s->column = about_column;
    if (check_about(w, s, about, err) < 0)
        return -1;
    s->column = value_column;
    return check_value(w, s, value, err) < 0 ? -1 : keep(c, s, err);
}

/* Its name is there twice: to be told, and to be cut. */
static int parse_variable(struct fal_pcap_config *c, char *name, char *value, char *again,
                          struct fal_error *err) {
    struct fal_pcap_setting s = {.source = name};
    char *about;
    const struct word *w = find_word(again + strlen("PCAP_"), true, &about);
    value = trim(value);
    if (!w || !*value)
        return 0;
    if (plain_text(name, strlen(name), false) < strlen(name) ||
        plain_text(value, strlen(value), w->means == FAL_PCAP_FANOUT) < strlen(value))
        return fal_fail(err, EINVAL, "PCAP_%s: this is no text", w->variable);
    return take(c, w, &s, about, 0, value, 0, err);
}

static int parse_environment(struct fal_pcap_config *c, struct fal_error *err) {
    for (char **e = environ; e && *e; e++) {
        size_t name = strcspn(*e, "="), size = strlen(*e) + 1;
        if (strncmp(*e, "PCAP_", strlen("PCAP_")) || !(*e)[name])
            continue;
        char *copy = c->variables < SETTINGS ? malloc(size + name + 1) : NULL;
        if (!copy)
            return fal_fail(err, ENOMEM, "no memory for so many PCAP_ variables");
        c->variable[c->variables++] = copy;
        memcpy(copy, *e, size);
        memcpy(copy + size, *e, name);
        copy[name] = copy[size + name] = 0;
        if (parse_variable(c, copy, copy + name + 1, copy + size, err) < 0)
            return -1;
    }
    return 0;
}

static int add_program(struct fal_pcap_config *c, struct fal_pcap_setting *s, const char *line,
                       struct fal_error *err) {
    bool first = !c->program;
    if (first && !(c->program = c->begun = malloc(FILE_SIZE + 2)))
        return fal_fail(err, ENOMEM, "no memory for %s", s->source);
    c->begun += sprintf(c->begun, "%s\n", line + 1);
    s->key = FAL_PCAP_FANOUT;
    s->index = -1;
    s->device = "";
    s->value = c->program;
    return first ? keep(c, s, err) : 0;
}

static int parse_line(struct fal_pcap_config *c, struct fal_pcap_setting s, char *line,
                      size_t length, struct fal_error *err) {
    if (length && line[length - 1] == '\r')
        length--;
    s.column = (uint32_t)plain_text(line, length, false) + 1;
    if (s.column <= length)
        return wrong(&s, err, "byte 0x%02x: this is no text", (unsigned char)line[s.column - 1]);
    line[length] = 0;
    s.column = 1;
    if (*line == '>')
        return add_program(c, &s, line, err);
    char *about, *key = trim(line), *value = strchr(key, '=');
    if (!*key || *key == '#')
        return 0;
    s.column = (uint32_t)(key - line) + 1;
    if (!value)
        return wrong(&s, err, "'%.40s' has no value (write key = value)", key);
    *value = 0;
    value = trim(value + 1);
    const struct word *w = find_word(trim(key), false, &about);
    if (!w)
        return wrong(&s, err, "there is no key '%.40s' (see pcap.conf(5))", key);
    return take(c, w, &s, about, (uint32_t)(about - line) + 1, value, (uint32_t)(value - line) + 1,
                err);
}

/* Its size in bytes.  Of a pipe one reader has everything, and each copy of a program reads it. */
static int read_file(const char *path, char *text, struct fal_error *err) {
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC), size = 0;
    if (fd >= 0 && lseek(fd, 0, SEEK_CUR) < 0) {
        close(fd);
        return fal_fail(err, ESPIPE, "%s can be read but once: name a file", end_of(path));
    }
    ssize_t n = fd < 0 ? -1 : 1;
    while (n > 0 && size <= FILE_SIZE) {
        do
            n = read(fd, text + size, (size_t)(FILE_SIZE + 1 - size));
        while (n < 0 && errno == EINTR);
        size += n > 0 ? (int)n : 0;
    }
    int code = n < 0 ? errno : size > FILE_SIZE ? EFBIG : 0;
    if (fd >= 0)
        close(fd);
    return code ? fal_fail(err, code, "cannot read %s: %s", end_of(path), strerror(code)) : size;
}

static int parse_file(struct fal_pcap_config *c, const char *path, struct fal_error *err) {
    struct fal_pcap_setting s = {.source = path};
    c->file = malloc(FILE_SIZE + 1);
    if (!c->file)
        return fal_fail(err, ENOMEM, "no memory for %s", end_of(path));
    int size = read_file(path, c->file, err);
    if (size < 0)
        return -1;
    for (char *line = c->file, *last = line + size; line < last;) {
        char *end = memchr(line, '\n', (size_t)(last - line));
        size_t length = (size_t)((end ? end : last) - line);
        s.line++;
        if (parse_line(c, s, line, length, err) < 0)
            return -1;
        line += length + 1;
    }
    return 0;
}

struct fal_pcap_config *fal_pcap_config_read(struct fal_error *err) {
    static const char *const places[] = {"/etc/pcap.conf", "/root/.pcap.conf"};
    struct fal_pcap_config *c = calloc(1, sizeof *c);
    if (!c) {
        fal_fail(err, ENOMEM, "no memory for the configuration");
        return NULL;
    }
    int result = getauxval(AT_SECURE) ? 0 : parse_environment(c, err);
    const struct fal_pcap_setting *named = find(c, FAL_PCAP_CONFIG, "", -1);
    const char *path = named ? named->value : NULL;
    for (size_t i = 0; !path && i < COUNT(places); i++)
        path = access(places[i], F_OK) == 0 ? places[i] : NULL;
    if (result == 0 && path)
        result = parse_file(c, path, err);
    if (result == 0)
        return c;
    fal_pcap_config_free(c);
    return NULL;
}

void fal_pcap_config_free(struct fal_pcap_config *c) {
    if (!c)
        return;
    for (uint32_t i = 0; i < c->variables; i++)
        free(c->variable[i]);
    free(c->program);
    free(c->file);
    free(c);
}

/* ---- asking ---------------------------------------------------------------------------------- */

const struct fal_pcap_setting *fal_pcap_config_setting(const struct fal_pcap_config *c,
                                                       uint32_t i) {
    return i < c->count ? &c->setting[i] : NULL;
}

const char *fal_pcap_config_driver(const struct fal_pcap_config *c) {
    const struct fal_pcap_setting *s = find(c, FAL_PCAP_DRIVER, "", -1);
    return s ? s->value : "";
}

/* What is said of a group: of the process's a variable goes before key@GROUP, and key behind it. */
static const struct fal_pcap_setting *of_group(const struct fal_pcap_config *c, uint32_t key,
                                               int32_t group, bool own) {
    const struct fal_pcap_setting *s = own ? find(c, key, "", -1) : NULL, *certain;
    certain = s && !s->line ? NULL : find(c, key, "", group);
    return certain ? certain : s;
}

/* What the engine would leave undone without a word. */
static int check_engine(const struct fal_pcap_config *c, const struct fal_pcap_settings *out,
                        uint32_t engine, struct fal_error *err) {
    const struct fal_pcap_setting *fanout = out->from_fanout;
    struct fal_fanout parsed;
    struct fal_error why;
    for (const struct fal_pcap_setting *s = c->setting; s < c->setting + c->count; s++)
        if (engine != FAL_PCAP_PFQ && s->key >= FAL_PCAP_PFQ_TX_SLOTS &&
            (s->index < 0 || s->index == out->group))
            return wrong(s, err, "only PFQ has this: take it out, or open pfq:DEVICE");
    if (out->from_filter && engine != FAL_PCAP_FAL)
        return wrong(out->from_filter, err,
                     "only fal-poller's groups have a filter: open fal:NAME");
    if (!fanout || engine == FAL_PCAP_PFQ)
        return 0;
    if (strchr(fanout->value, '\n'))
        return wrong(fanout, err, "only PFQ understands PFQ-Lang: write fanout = MODE");
    if (engine <= FAL_PCAP_KERNEL && fal_fanout_parse(fanout->value, &parsed, &why) < 0)
        return wrong(fanout, err, "%s", why.text);
    return 0;
}

int fal_pcap_config_group(const struct fal_pcap_config *c, int32_t group, uint32_t engine,
                          struct fal_pcap_settings *out, struct fal_error *err) {
    const struct fal_pcap_setting *process = find(c, FAL_PCAP_GROUP, "", -1);
    bool own = !process || process->number == (uint32_t)group;
    out->group = group;
    out->from_fanout = group < 0 ? NULL : of_group(c, FAL_PCAP_FANOUT, group, own);
    out->from_filter = group < 0 ? NULL : of_group(c, FAL_PCAP_FILTER, group, own);
    out->fanout = out->from_fanout ? out->from_fanout->value : "";
    out->filter = out->from_filter ? out->from_filter->value : "";
    return check_engine(c, out, engine, err);
}

static bool has_groups(const struct fal_pcap_config *c) {
    for (uint32_t i = 0; i < c->count; i++)
        if (c->setting[i].key == FAL_PCAP_GROUP)
            return true;
    return false;
}

int fal_pcap_config_for(const struct fal_pcap_config *c, const char *device, uint32_t engine,
                        struct fal_pcap_settings *out, struct fal_error *err) {
    const struct fal_pcap_setting *lonely = find(c, FAL_PCAP_FANOUT, "", -1);
    if (!lonely)
        lonely = find(c, FAL_PCAP_FILTER, "", -1);
    if (lonely && !has_groups(c))
        return wrong(lonely, err, "of which group? set PCAP_GROUP, or group = N in the file");
    *out = (struct fal_pcap_settings){.from_group = find(c, FAL_PCAP_GROUP, device, -1),
                                      .from_caplen = find(c, FAL_PCAP_CAPLEN, "", -1),
                                      .from_ring = find(c, FAL_PCAP_RX_SLOTS, "", -1)};
    if (!out->from_group)
        out->from_group = find(c, FAL_PCAP_GROUP, "", -1);
    out->caplen = out->from_caplen ? out->from_caplen->number : 0;
    out->ring = out->from_ring ? out->from_ring->number : 0;
    return fal_pcap_config_group(c, out->from_group ? (int32_t)out->from_group->number : -1, engine,
                                 out, err);
}
