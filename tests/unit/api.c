/* libfal called as a C program calls it.  Usage: api DEVICE COUNT, with a fal-poller that has begun
 * by the second socket that is started, and gives COUNT packets.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <err.h>
#include <errno.h>
#include <fal.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct fal_error error;

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x))                                                                                  \
            errx(1, "line %d: %s (errno %d, %s)", __LINE__, #x, error.code, error.text);           \
    } while (0)
#define REFUSED(x, errno_) CHECK((x) == -1 && error.code == (errno_) && *error.text)

int main(int argc, char **argv) {
    CHECK(argc == 3);
    const char *device = argv[1];
    uint32_t count = (uint32_t)atoi(argv[2]);
    struct fal_batch batch;
    struct fal_stats stats;
    struct fal_view view;

    CHECK(!fal_open(100, &error) && error.code == EINVAL);
    CHECK(!fal_open(100, NULL));
    fal_close(NULL);

    /* attached to nothing */
    struct fal_socket *s = fal_open(0, &error);
    CHECK(s);
    CHECK(fal_receive(s, 1, &batch) == -1 && errno == ENOTCONN && batch.count == 0);
    fal_release(s);
    REFUSED(fal_wait(s, 0, &error), ENOTCONN);
    REFUSED(fal_start(s, &error), ENOTCONN);
    REFUSED(fal_detach(s, &error), ENOTCONN);
    REFUSED(fal_leave(s, &error), EINVAL);
    REFUSED(fal_join(s, -1, "hash", &error), EINVAL);
    REFUSED(fal_join(s, 65536, "hash", &error), EINVAL);
    REFUSED(fal_attach(s, "pfring:nosuch", &error), EINVAL);
    REFUSED(fal_attach(s, "nosuch", &error), ENODEV);
    REFUSED(fal_attach(s, "fal:nobody", &error), ENOENT);
    CHECK(fal_attach(s, "fal:nobody", NULL) == -1);
    CHECK(fal_stats(s, &stats) == -1 && fal_member(s) == -1 && fal_rings(s) == 0);
    CHECK(!fal_pin(s, 0));
    fal_unpin(NULL);
    CHECK(fal_fileno(s) == -1);

    /* a group is kept until the socket is attached, and refused then */
    CHECK(fal_join(s, 7, "flew", &error) == 0);
    REFUSED(fal_join(s, 8, NULL, &error), EALREADY);
    REFUSED(fal_attach(s, device, &error), EINVAL);
    const struct fal_bpf_insn all = {0x06, 0, 0, 1}, bad = {0xffff, 0, 0, 0}; /* ret 1; nothing */
    REFUSED(fal_set_group_filter(s, &bad, 1, &error), EINVAL);
    REFUSED(fal_set_group_program(s, &bad, 1, &error), EINVAL);
    REFUSED(fal_setfilter(s, &bad, 1, &error), EINVAL);
    REFUSED(fal_inject(s, "", 1, &error), ENOTCONN);
    CHECK(fal_leave(s, &error) == 0 && fal_join(s, 7, "LB", &error) == 0);
    CHECK(fal_set_group_filter(s, &all, 1, &error) == 0);
    CHECK(fal_set_group_program(s, NULL, 0, &error) == 0);

    /* attached, detached, attached again */
    CHECK(fal_attach(s, device, &error) == 0);
    REFUSED(fal_attach(s, device, &error), EISCONN);
    CHECK(fal_member(s) == -1 && fal_start(s, &error) == 0 && fal_member(s) == 0);
    CHECK(fal_rings(s) == 1 && fal_view(s, 0, &view) == 0 && fal_view(s, 1, &view) == -1);
    CHECK(view.capacity == FAL_DEFAULT_RING && view.frames_size > 0);
    struct fal_mapping *pinned = fal_pin(s, 0);
    CHECK(fal_detach(s, &error) == 0);
    CHECK(fal_receive(s, 1, &batch) == -1 && errno == ENOTCONN && fal_rings(s) == 0);
    CHECK(view.slots[0].len == 0); /* is there as long as it is pinned */
    fal_unpin(pinned);
    CHECK(fal_attach(s, device, &error) == 0 && fal_start(s, &error) == 0 && fal_member(s) == 0);

    /* a second socket begins it; a descriptor of before the first packet tells of it */
    struct pollfd readable = {.fd = fal_fileno(s), .events = POLLIN};
    CHECK(readable.fd >= 0 && poll(&readable, 1, 0) == 0 && fal_wait(s, 10, &error) == 0);
    fal_interrupt(s);
    CHECK(poll(&readable, 1, 0) == 1);
    REFUSED(fal_wait(s, 10000, &error), EINTR);
    CHECK(fal_wait(s, 10, &error) == 0 && poll(&readable, 1, 0) == 0);
    struct fal_socket *other = fal_open(FAL_MIN_RING, &error);
    CHECK(other && fal_join(other, 7, "hash", &error) == 0);
    REFUSED(fal_attach(other, device, &error), EINVAL);
    CHECK(strstr(error.text, "hash") && strstr(error.text, "lb"));
    CHECK(fal_leave(other, &error) == 0 && fal_attach(other, device, &error) == 0);
    REFUSED(fal_join_device(other, 1, 9, "hash", &error), ENOTCONN);
    REFUSED(fal_join_device(other, 0, -1, "hash", &error), EINVAL);
    REFUSED(fal_join_device(other, 0, 7, "hash", &error), EINVAL);
    CHECK(fal_join_device(other, 0, 9, "hash", &error) == 0);
    REFUSED(fal_join_device(other, 0, 9, NULL, &error), EALREADY);
    REFUSED(fal_join(other, 9, NULL, &error), EALREADY);
    CHECK(fal_leave(other, &error) == 0);
    REFUSED(fal_leave(other, &error), EINVAL);
    CHECK(poll(&readable, 1, 0) == 0);
    CHECK(fal_start(other, &error) == 0 && fal_start(other, &error) == 0);
    CHECK(poll(&readable, 1, 10000) == 1);
    uint64_t got = 0;
    CHECK(fal_setfilter(s, &all, 1, &error) == 0);
    CHECK(fal_wait(s, 10000, &error) == 1 && fal_receive(s, 100, &batch) > 1);
    fal_release_first(s, 1); /* the first is read, the others come again, without a filter */
    CHECK(fal_setfilter(s, NULL, 0, &error) == 0);
    for (got = 1; got < count;) {
        CHECK(fal_wait(s, 10000, &error) == 1);
        while (fal_receive(s, 100, &batch) > 0) {
            CHECK(batch.count <= 100 && batch.ring == 0);
            uint8_t copy[60];
            CHECK(fal_copy(&batch, 0, copy, sizeof copy) == 60 && batch.whole == batch.count);
            CHECK(!memcmp(copy, batch.frames + batch.packets[0].offset, sizeof copy));
            for (uint32_t i = 0; i < batch.count; i++, got++)
                CHECK(!memcmp(batch.frames + batch.packets[i].offset + 42, &got, sizeof got));
            fal_release(s);
            fal_release(s);
        }
    }
    CHECK(fal_wait(s, 0, &error) == 0);
    for (int i = 0; i < 5000 && !fal_stats(s, &stats) && stats.recv < count; i++)
        poll(NULL, 0, 1); /* packets are shown before they are counted */
    CHECK(fal_stats(s, &stats) == 0 && stats.recv == count && !stats.drop && !stats.ifdrop);
    CHECK(fal_stats(other, &stats) == 0 && stats.recv == 64 && stats.drop == count - 64);

    uint8_t frame[60] = {0};
    REFUSED(fal_inject(s, frame, 13, &error), EMSGSIZE);
    CHECK(fal_inject(s, frame, sizeof frame, &error) == sizeof frame);

    /* once all is read, the source is over */
    CHECK(fal_receive(other, 1000, &batch) == 64);
    fal_release(other);
    REFUSED(fal_wait(s, -1, &error), ENODATA);
    CHECK(poll(&readable, 1, 10000) == 1); /* its last word is read, it hangs up just after */
    REFUSED(fal_leave(s, &error), ENODATA);
    fal_close(other);
    fal_close(s);
    puts("done");
    return 0;
}
