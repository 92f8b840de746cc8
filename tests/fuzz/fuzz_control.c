/* Any bytes as fal-poller's answer: fal_control_ask gives an error, or a whole reply.
 *
 * Input: messages, each with a head of two bytes: how many descriptors come with it, and how its
 * length differs from that of a reply; then its bytes, as far as there are any.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"

static void say(int fd, const uint8_t *bytes, size_t size, uint32_t descriptors) {
    union {
        char bytes[CMSG_SPACE(sizeof(int) * 64)];
        struct cmsghdr align;
    } ancillary = {0};
    struct iovec part = {(void *)(uintptr_t)bytes, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (descriptors) {
        message.msg_control = ancillary.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                              .cmsg_type = SCM_RIGHTS,
                              .cmsg_len = CMSG_LEN(sizeof(int) * descriptors)};
        for (uint32_t i = 0; i < descriptors; i++)
            memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof fd);
    }
    (void)!sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int ends[2], fds[FAL_CONTROL_FDS];
    struct fal_request request = {.type = FAL_OPEN, .version = FAL_PROTOCOL_VERSION};
    uint8_t message[sizeof(struct fal_reply) + 64];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    while (size >= 2) {
        uint32_t descriptors = data[0] % 65;
        size_t length = sizeof(struct fal_reply) + data[1] % 128;
        length -= length > sizeof message ? 128 : 0; /* from 63 too short to 64 too long */
        data += 2;
        size -= 2;
        size_t given = size < length ? size : length;
        memset(message, 0, sizeof message);
        memcpy(message, data, given);
        data += given;
        size -= given;
        say(ends[1], message, length, descriptors);
    }
    CHECK(shutdown(ends[1], SHUT_WR) == 0);

    for (int round = 0; round < 4; round++) { /* the last ones find no answer any more */
        struct fal_reply *reply = calloc(1, sizeof *reply);
        struct fal_error err = {0};
        uint32_t count = FAL_CONTROL_FDS;
        int result = fal_control_ask(ends[0], &request, NULL, NULL, reply, round % 2 ? NULL : fds,
                                     round % 2 ? NULL : &count, &err);
        if (result == 0)
            CHECK(reply->code == 0 && memchr(reply->text, 0, sizeof reply->text));
        else
            CHECK(result == -1 && err.code != 0 && memchr(err.text, 0, sizeof err.text));
        for (uint32_t i = 0; round % 2 == 0 && i < count; i++)
            CHECK(close(fds[i]) == 0);
        free(reply);
    }
    close(ends[0]);
    close(ends[1]);
    int next = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK(next == ends[0]); /* else some descriptor has stayed behind */
    close(next);
    return 0;
}
