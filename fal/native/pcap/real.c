/* Finds the real libpcap when this library is loaded.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "real.h"

#include <dlfcn.h>
#include <link.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MISSING                                                                                    \
    "libfal-pcap: the libpcap that it stands before is not here, or has not the function called: " \
    "apt-get install libpcap0.8\n"

struct fal_pcap_real fal_pcap_real;

/* Data that programs refer to by name.  They may have copies of their own, made before this library
 * is loaded; so of the version there is what it was built with. */
struct fal_pcap_eproto {
    const char *name;
    unsigned short number;
};
extern char pcap_version[7];
extern struct fal_pcap_eproto eproto_db[13];
char pcap_version[7] = PCAP_VERSION;
struct fal_pcap_eproto eproto_db[13];

/* As the loader does where a library is missing. */
static void missing(void) {
    (void)!write(STDERR_FILENO, MISSING, sizeof MISSING - 1);
    _exit(127);
}

/* Ours, where an administrator has put it in place of the system's. */
static int is_this(const char *path) {
    Dl_info own;
    struct stat a, b;
    return dladdr(&fal_pcap_real, &own) && stat(own.dli_fname, &a) == 0 && stat(path, &b) == 0 &&
           a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static void *open_real(void) {
    static const char *const paths[] = {
        "/usr/lib/" MULTIARCH "/libpcap.so.0.8",
        "/usr/lib/" MULTIARCH "/libpcap.so.1",
        "/usr/lib64/libpcap.so.1",
        "/usr/lib/libpcap.so.1",
        "/usr/local/lib/libpcap.so.1",
    };
    for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++)
        if (!is_this(paths[i])) {
            void *library = dlopen(paths[i], RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
            if (library)
                return library;
        }
    return NULL;
}

static void *function_of(void *library, const char *name) {
    void *function = library ? dlsym(library, name) : NULL;
    return function ? function : (void *)missing;
}

__attribute__((constructor)) static void load(void) {
    void *library = open_real(), *data, *symbol;
    Dl_info info;
#define LOAD(name)                      fal_pcap_real.name = function_of(library, #name);
#define LOAD_FORWARDED(type, name, ...) LOAD(name)
    FAL_PCAP_OWN(LOAD)
    FAL_PCAP_FORWARDED(LOAD_FORWARDED)
    if (library && (data = dlsym(library, "eproto_db")) &&
        dladdr1(data, &info, &symbol, RTLD_DL_SYMENT)) {
        size_t size = ((const ElfW(Sym) *)symbol)->st_size;
        memcpy(eproto_db, data, size < sizeof eproto_db ? size : sizeof eproto_db);
    }
}
