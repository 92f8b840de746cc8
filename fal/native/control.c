/* SPDX-License-Identifier: BSD-3-Clause */
#include "control.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

_Static_assert(sizeof(struct fal_request) == 32 + FAL_NAME_SIZE, "no padding");
_Static_assert(sizeof(struct fal_reply) == 32 + 8 * FAL_MAX_POLLERS + FAL_ERROR_TEXT, "no padding");

#define REPLY_SECONDS 10 /* a reply takes a round of the poller; a stopped one never gives it */

/* Connects to `directory`/NAME.sock; -1 and errno.  flags: SOCK_NONBLOCK, not to wait for one that
 * does not let in those that knock (EAGAIN). */
static int connect_in(const char *directory, const char *name, int flags, char *path, size_t size) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if ((size_t)snprintf(path, size, "%s/%s.sock", directory, name) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0);
    if (fd < 0)
        return -1;
    const struct timeval patience = {.tv_sec = REPLY_SECONDS};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience); /* connect's, too */
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* Where control sockets are: FAL_RUNTIME_DIR, or first the user's own, then the system's. */
static int directories(const char *directory[2], char *own, size_t size) {
    const char *set = getenv("FAL_RUNTIME_DIR"), *user = getenv("XDG_RUNTIME_DIR");
    int n = 0;
    if (set && *set) {
        directory[0] = set;
        return 1;
    }
    if (geteuid() != 0 && user && *user && (size_t)snprintf(own, size, "%s/fal", user) < size)
        directory[n++] = own;
    directory[n++] = "/run/fal";
    return n;
}

int fal_control_connect(const char *name, struct fal_error *err) {
    const char *directory[2];
    char path[512], own[256];
    int fd = -1, n = directories(directory, own, sizeof own);
    if (!*name || *name == '.' || strchr(name, '/'))
        return fal_fail(err, EINVAL, "'%s' is not a name of a fal-poller", name);
    errno = ENOENT;
    for (int i = 0; i < n && fd < 0 && errno == ENOENT; i++)
        fd = connect_in(directory[i], name, 0, path, sizeof path);
    if (fd >= 0)
        return fd;
    if (errno == ENOENT)
        return fal_fail(err, errno, "no fal-poller serves '%s' (start one: fal-poller %s)", name,
                        name);
    if (errno == ECONNREFUSED)
        return fal_fail(err, errno,
                        "the fal-poller of '%s' is gone (start it again: fal-poller %s)", name,
                        name);
    if (errno == EACCES)
        return fal_fail(err, errno, "no permission for %s (be root, or a member of group fal)",
                        path);
    return fal_fail(err, errno, "cannot connect to %.150s: %s", path, strerror(errno));
}

/* The one that runs behind directory/file, if it is a control socket; *name is cut out of it. */
static bool runs(const char *directory, const char *file, char *name) {
    char path[512];
    const char *end = strrchr(file, '.');
    size_t length = end ? (size_t)(end - file) : 0;
    if (!length || length >= FAL_NAME_SIZE || strcmp(end, ".sock"))
        return false;
    memcpy(name, file, length);
    name[length] = 0;
    int fd = connect_in(directory, name, SOCK_NONBLOCK, path, sizeof path);
    if (fd < 0)
        return errno == EAGAIN; /* so many wait there already */
    close(fd);
    return true;
}

int fal_control_names(char (*names)[FAL_NAME_SIZE], int most) {
    const char *directory[2];
    char own[256];
    int n = directories(directory, own, sizeof own), found = 0;
    for (int i = 0; i < n; i++) {
        DIR *files = opendir(directory[i]);
        for (struct dirent *f; files && found < most && (f = readdir(files));)
            found += runs(directory[i], f->d_name, names[found]);
        if (files)
            closedir(files);
    }
    return found;
}

/* An iovec takes no const, though sending only reads. */
static void *readable(const void *data) {
    return (void *)(uintptr_t)data;
}

static ssize_t send_request(int fd, const struct fal_request *request,
                            const struct fal_bpf_insn *filter, const struct fal_bpf_insn *program) {
    struct iovec part[] = {{readable(request), sizeof *request},
                           {readable(filter), request->filter * sizeof *filter},
                           {readable(program), request->program * sizeof *program}};
    struct msghdr message = {.msg_iov = part, .msg_iovlen = sizeof part / sizeof *part};
    ssize_t n;
    do
        n = sendmsg(fd, &message, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n;
}

int fal_control_ask(int fd, const struct fal_request *request, const struct fal_bpf_insn *filter,
                    const struct fal_bpf_insn *program, struct fal_reply *reply, int *fds,
                    uint32_t *fd_count, struct fal_error *err) {
    union {
        char bytes[CMSG_SPACE(sizeof(int) * FAL_CONTROL_FDS)];
        struct cmsghdr align;
    } ancillary;
    uint32_t room = fd_count ? *fd_count : 0;
    int message_flags = 0;
    if (fd_count)
        *fd_count = 0;
    ssize_t n = send_request(fd, request, filter, program);
    /* Where that failed there may still be a last word to read, and before it an error, if
     * fal-poller closed the connection without having read our request. */
    for (;;) {
        struct iovec part = {reply, sizeof *reply};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        if (room) {
            message.msg_control = ancillary.bytes;
            message.msg_controllen = CMSG_LEN(sizeof(int) * room); /* padding would hold another */
        }
        n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
        message_flags = message.msg_flags;
        if (n < 0 && (errno == EINTR || errno == ECONNRESET)) /* the latter comes once */
            continue;
        if (n >= 0 && room) /* whatever the message is: the descriptors are ours now */
            for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
                    *fd_count = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                    memcpy(fds, CMSG_DATA(c), *fd_count * sizeof(int));
                }
        break;
    }
    if (n == sizeof *reply && room && message_flags & MSG_CTRUNC)
        return fal_fail(err, EMFILE,
                        "no descriptors left for a socket of FAL (close some, or raise ulimit -n)");
    if (n < 0 && errno == EAGAIN)
        return fal_fail(err, ETIMEDOUT, "fal-poller has not answered for %d s: is it stopped?",
                        REPLY_SECONDS);
    if (n != sizeof *reply)
        return fal_fail(err, ECONNRESET, "fal-poller closed the connection");
    reply->text[sizeof reply->text - 1] = 0;
    if (reply->code)
        return fal_fail(err, reply->code, "%s", reply->text);
    return 0;
}
