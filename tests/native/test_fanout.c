/* The fan-out's promises: gentle when members come and go, even, and the same for every poller.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "fanout.h"

#include "check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SEEDS       8
#define BOUND_MOVED (FAL_BUCKETS / 20) /* 5 %, beyond the 1/n that must move */

static uint64_t seed;

/* Not the generator under test: xorshift64*. */
static uint64_t draw(void) {
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * 0x2545f4914f6cdd1du;
}

static void draw_ids(uint64_t *ids, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        ids[i] = draw();
}

/* The owner's id of each bucket: what stays the same when numbers change.  Every table made here
 * must be even. */
static void owners(const uint64_t *ids, uint32_t n, uint64_t *owner) {
    static uint8_t table[FAL_BUCKETS];
    uint32_t has[FAL_GROUP_MEMBERS] = {0};
    CHECK(fal_buckets_build(ids, n, table) == 0);
    for (uint32_t b = 0; b < FAL_BUCKETS; b++) {
        CHECK(table[b] < n);
        has[table[b]]++;
        owner[b] = ids[table[b]];
    }
    for (uint32_t i = 0; i < n; i++) {
        CHECK(has[i] * 100 * n <= FAL_BUCKETS * 102u);
        /* and since members take turns, no two differ by more than one bucket */
        CHECK(has[i] == FAL_BUCKETS / n || has[i] == (FAL_BUCKETS + n - 1) / n);
    }
}

static uint32_t moved(const uint64_t *before, const uint64_t *after) {
    uint32_t count = 0;
    for (uint32_t b = 0; b < FAL_BUCKETS; b++)
        count += before[b] != after[b];
    return count;
}

/* A group grows to 64 members, then shrinks to one, a random member leaving each time and the last
 * taking its number. */
static void test_join_and_leave(void) {
    static uint64_t a[FAL_BUCKETS], b[FAL_BUCKETS];
    uint64_t *before = a, *after = b, *swap, ids[64];
    for (uint32_t s = 1; s <= SEEDS; s++) {
        seed = s;
        draw_ids(ids, 64);
        owners(ids, 1, before);
        for (uint32_t n = 2; n <= 64; n++) {
            owners(ids, n, after);
            CHECK(moved(before, after) <= FAL_BUCKETS / n + BOUND_MOVED);
            swap = before, before = after, after = swap;
        }
        for (uint32_t n = 64; n >= 2; n--) {
            ids[draw() % n] = ids[n - 1];
            owners(ids, n - 1, after);
            CHECK(moved(before, after) <= FAL_BUCKETS / n + BOUND_MOVED);
            swap = before, before = after, after = swap;
        }
    }
}

/* Pollers and devices agree: the order in which members came does not matter. */
static void test_order_does_not_matter(void) {
    static uint64_t one[FAL_BUCKETS], other[FAL_BUCKETS];
    static const uint32_t sizes[] = {2, 3, 7, 64, FAL_GROUP_MEMBERS};
    uint64_t ids[FAL_GROUP_MEMBERS];
    seed = 42;
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        uint32_t n = sizes[k];
        draw_ids(ids, n);
        owners(ids, n, one);
        for (uint32_t round = 0; round < 10; round++) {
            for (uint32_t i = n - 1; i > 0; i--) {
                uint32_t j = (uint32_t)(draw() % (i + 1));
                uint64_t id = ids[i];
                ids[i] = ids[j];
                ids[j] = id;
            }
            owners(ids, n, other);
            CHECK(moved(one, other) == 0);
        }
    }
}

static void test_smallest_and_largest(void) {
    static uint8_t table[FAL_BUCKETS], again[FAL_BUCKETS];
    static uint64_t owner[FAL_BUCKETS];
    uint64_t ids[FAL_GROUP_MEMBERS + 1];
    seed = 7;
    draw_ids(ids, FAL_GROUP_MEMBERS + 1);

    CHECK(fal_buckets_build(ids, 1, table) == 0);
    for (uint32_t b = 0; b < FAL_BUCKETS; b++)
        CHECK(table[b] == 0);

    /* Beyond 64 members too no member is more than 2 % above the mean. */
    for (uint32_t n = 65; n <= FAL_GROUP_MEMBERS; n++)
        owners(ids, n, owner);

    /* A refusal leaves the table in use as it was. */
    memcpy(again, table, sizeof again);
    errno = 0;
    CHECK(fal_buckets_build(ids, 0, again) == -1 && errno == EINVAL);
    errno = 0;
    CHECK(fal_buckets_build(ids, FAL_GROUP_MEMBERS + 1, again) == -1 && errno == EINVAL);
    CHECK(memcmp(again, table, sizeof again) == 0);
}

/* Ids are random, so equal ones mean ill will: still even, still the same each time, still an end.
 */
static void test_equal_and_regular_ids(void) {
    static uint8_t table[FAL_BUCKETS], again[FAL_BUCKETS];
    static uint64_t owner[FAL_BUCKETS];
    uint64_t ids[FAL_GROUP_MEMBERS];
    uint32_t has[FAL_GROUP_MEMBERS] = {0};
    for (uint32_t i = 0; i < FAL_GROUP_MEMBERS; i++)
        ids[i] = 0;
    CHECK(fal_buckets_build(ids, FAL_GROUP_MEMBERS, table) == 0);
    CHECK(fal_buckets_build(ids, FAL_GROUP_MEMBERS, again) == 0);
    CHECK(memcmp(table, again, sizeof table) == 0);
    for (uint32_t b = 0; b < FAL_BUCKETS; b++)
        has[table[b]]++;
    for (uint32_t i = 0; i < FAL_GROUP_MEMBERS; i++)
        CHECK(has[i] == FAL_BUCKETS / FAL_GROUP_MEMBERS);

    /* Ids in steps of the generator's own increment: the lists must not be one list, shifted. */
    static uint64_t fewer[FAL_BUCKETS];
    for (uint32_t i = 0; i < 64; i++)
        ids[i] = i * 0x9e3779b97f4a7c15u;
    owners(ids, 64, owner);
    owners(ids, 63, fewer);
    CHECK(moved(owner, fewer) <= FAL_BUCKETS / 64 + BOUND_MOVED);
}

/* Pollers of two versions must agree as well: whoever changes this number changes who gets what. */
static void test_table_stays_the_same(void) {
    static uint64_t owner[FAL_BUCKETS];
    static const uint64_t ids[] = {1, 2, 3, 4, 5};
    uint64_t sum = 0xcbf29ce484222325u; /* FNV-1a */
    owners(ids, 5, owner);
    for (uint32_t b = 0; b < FAL_BUCKETS; b++)
        sum = (sum ^ owner[b]) * 0x100000001b3u;
    CHECK(sum == 0x817700af0ce60adu);
}

static void steer(struct fal_steering *s, const struct fal_desc *packets, uint32_t n,
                  uint8_t *member) {
    fal_steer(s, &(struct fal_burst){.packets = packets, .n = n}, member);
}

static void test_steer_hash(void) {
    static uint8_t table[FAL_BUCKETS];
    struct fal_desc packets[512];
    uint64_t ids[48];
    uint8_t member[513];
    seed = 3;
    draw_ids(ids, 48);
    CHECK(fal_buckets_build(ids, 48, table) == 0);
    memset(packets, 0, sizeof packets);
    for (uint32_t i = 0; i < 512; i++)
        packets[i].hash = (uint32_t)draw();
    packets[0].hash = 0;
    packets[1].hash = UINT32_MAX;

    struct fal_steering s = {FAL_MODE_HASH, 48, 1, table, {0}};
    memset(member, 0xee, sizeof member);
    steer(&s, packets, 512, member);
    CHECK(member[0] == table[0]);
    CHECK(member[1] == table[FAL_BUCKETS - 1]);
    for (uint32_t i = 0; i < 512; i++)
        CHECK(member[i] == table[packets[i].hash / (UINT32_MAX / FAL_BUCKETS + 1)]);
    CHECK(member[512] == 0xee);
    CHECK(s.next == 1);

    steer(&s, packets, 0, member + 512);
    CHECK(member[512] == 0xee);
}

static void test_steer_lb(void) {
    struct fal_desc packets[300];
    uint8_t member[301];
    uint64_t turn = 1; /* the kernel's counter is raised before it is used: its first is member 1 */
    struct fal_steering s = {FAL_MODE_LB, 1, turn, NULL, {0}};
    memset(packets, 0xff, sizeof packets);
    seed = 5;
    /* bursts of all sizes, and members who come and go in between: the count runs on */
    for (uint32_t round = 0; round < 1000; round++) {
        s.members = 1 + (uint32_t)(draw() % FAL_GROUP_MEMBERS);
        uint32_t n = (uint32_t)(draw() % 301);
        member[n] = 0xee;
        steer(&s, packets, n, member);
        for (uint32_t i = 0; i < n; i++)
            CHECK(member[i] == turn++ % s.members);
        CHECK(member[n] == 0xee);
        CHECK(s.next == turn);
    }
    /* where the kernel's 32 bits end, ours go on */
    s.next = UINT32_MAX;
    s.members = 3;
    steer(&s, packets, 2, member);
    CHECK(member[0] == UINT32_MAX % 3 && member[1] == (UINT64_C(1) << 32) % 3);
}

static void test_steer_unknown(void) {
    struct fal_desc packets[4] = {{0}};
    uint8_t member[4] = {9, 9, 9, 9};
    struct fal_steering s = {99, 2, 1, NULL, {0}};
    steer(&s, packets, 4, member);
    CHECK(!member[0] && !member[1] && !member[2] && !member[3]);
}

static void test_steer_rnd(void) {
    enum { MEMBERS = 7, DRAWS = 70000 };
    static uint8_t once[DRAWS], again[DRAWS];
    uint32_t got[MEMBERS] = {0}, pairs[MEMBERS] = {0};
    struct fal_steering s = {FAL_MODE_RND, MEMBERS, 42, NULL, {0}}, t = s;
    steer(&s, NULL, DRAWS, once);
    for (uint32_t done = 0; done < DRAWS; done += 100) /* in other bursts: the same */
        steer(&t, NULL, 100, again + done);
    CHECK(memcmp(once, again, DRAWS) == 0);
    for (uint32_t i = 0; i < DRAWS; i++) {
        CHECK(once[i] < MEMBERS);
        got[once[i]]++;
        pairs[(once[i] + MEMBERS - (i ? once[i - 1] : 0)) % MEMBERS]++;
    }
    for (uint32_t i = 0; i < MEMBERS; i++) { /* within six standard deviations of 93 */
        CHECK(abs((int)got[i] - DRAWS / MEMBERS) < 6 * 93);
        CHECK(abs((int)pairs[i] - DRAWS / MEMBERS) < 6 * 93);
    }
    s.next = 43;
    steer(&s, NULL, DRAWS, again);
    CHECK(memcmp(once, again, DRAWS) != 0);
    s.members = FAL_GROUP_MEMBERS;
    steer(&s, NULL, DRAWS, again);
    uint8_t highest = 0;
    for (uint32_t i = 0; i < DRAWS; i++)
        highest = again[i] > highest ? again[i] : highest;
    CHECK(highest == FAL_GROUP_MEMBERS - 1);
}

/* What lies beside the packets, modulo members. */
static void test_steer_by_numbers(void) {
    struct fal_desc packets[300];
    uint16_t cpu[300];
    uint32_t verdict[300];
    uint8_t member[301];
    seed = 7;
    for (uint32_t i = 0; i < 300; i++) {
        packets[i].queue = (uint16_t)draw();
        cpu[i] = (uint16_t)draw();
        verdict[i] = (uint32_t)draw();
    }
    for (uint32_t members = 1; members <= FAL_GROUP_MEMBERS; members++) {
        struct fal_steering s = {FAL_MODE_QM, members, 1, NULL, {0}};
        struct fal_burst b = {packets, cpu, verdict, 300};
        member[300] = 0xee;
        fal_steer(&s, &b, member);
        for (uint32_t i = 0; i < 300; i++)
            CHECK(member[i] == packets[i].queue % members);
        s.mode = FAL_MODE_CPU;
        fal_steer(&s, &b, member);
        for (uint32_t i = 0; i < 300; i++)
            CHECK(member[i] == cpu[i] % members);
        s.mode = FAL_MODE_CBPF;
        fal_steer(&s, &b, member);
        for (uint32_t i = 0; i < 300; i++)
            CHECK(member[i] == verdict[i] % members);
        CHECK(member[300] == 0xee);
    }
    for (uint32_t mode = FAL_MODE_CPU; mode <= FAL_MODE_CBPF;
         mode += FAL_MODE_CBPF - FAL_MODE_CPU) {
        struct fal_steering s = {mode, 5, 1, NULL, {0}};
        memset(member, 9, sizeof member);
        steer(&s, packets, 300, member);
        for (uint32_t i = 0; i < 300; i++)
            CHECK(member[i] == 0); /* not known */
    }
}

/* ---- rollover ---- */

static uint8_t ones[256]; /* slots that each packet takes */

/* One packet, for the member that the mode has chosen; returns who gets it, and takes the room. */
static uint32_t roll(struct fal_steering *s, const uint32_t *capacity, uint32_t *room,
                     uint8_t chosen) {
    fal_rollover(s, capacity, room, ones, 1, &chosen);
    CHECK(chosen < s->members);
    return chosen;
}

static void test_rollover_fills_one_after_the_other(void) {
    const uint32_t capacity[3] = {64, 64, 128};
    uint32_t room[3] = {64, 64, 128};
    uint8_t member[256];
    struct fal_steering s = {FAL_MODE_ROLLOVER, 3, 1, NULL, {0}};
    steer(&s, NULL, 256, member);
    fal_rollover(&s, capacity, room, ones, 256, member);
    uint32_t i = 0;
    while (i < 48) /* three quarters of each: then it is backlogged */
        CHECK(member[i++] == 0);
    while (i < 96)
        CHECK(member[i++] == 1);
    while (i < 192)
        CHECK(member[i++] == 2);
    while (i < 224) /* all are: the present one to the end, then whoever can */
        CHECK(member[i++] == 2);
    while (i < 240)
        CHECK(member[i++] == 0);
    while (i < 256)
        CHECK(member[i++] == 1);
    CHECK(!room[0] && !room[1] && !room[2]);
    CHECK(roll(&s, capacity, room, 0) == 0); /* no room at all: dropped there */

    room[1] = 20; /* has read some: more than a quarter is free */
    CHECK(roll(&s, capacity, room, 0) == 1 && room[1] == 19);
    room[0] = 64; /* no reason to go on yet */
    while (room[1] > 16)
        CHECK(roll(&s, capacity, room, 0) == 1);
    CHECK(roll(&s, capacity, room, 0) == 0 && s.elsewhere[0] == 0);
}

static void test_rollover_overflows(void) {
    const uint32_t capacity[4] = {64, 64, 64, 64};
    uint32_t room[4] = {1, 64, 17, 64};
    struct fal_steering s = {FAL_MODE_HASH, 4, 1, NULL, {0}};
    CHECK(roll(&s, capacity, room, 0) == 0 && room[0] == 0); /* its own, to the last slot */
    CHECK(roll(&s, capacity, room, 0) == 1 && room[1] == 63 && s.elsewhere[0] == 1);
    CHECK(roll(&s, capacity, room, 3) == 3 && room[3] == 63); /* others are left alone */
    room[1] = 16;
    CHECK(roll(&s, capacity, room, 0) == 2 && room[2] == 16); /* not into the last quarter */
    CHECK(roll(&s, capacity, room, 0) == 3 && s.elsewhere[0] == 3);
    room[1] = 64; /* sticky: stays where it went last */
    CHECK(roll(&s, capacity, room, 0) == 3);
    room[0] = 1; /* but its own ring comes first */
    CHECK(roll(&s, capacity, room, 0) == 0 && roll(&s, capacity, room, 0) == 3);
    s.members = 2; /* 2 and 3 went: as in the kernel, it begins with the last that there is */
    CHECK(roll(&s, capacity, room, 0) == 1);
    room[1] = 16;
    CHECK(roll(&s, capacity, room, 0) == 0); /* nobody: to be dropped at its own ring */
    CHECK(room[0] == 0 && room[1] == 16);
}

/* Whatever happens: never more than there is room for, never a drop while another has room. */
static void test_rollover_at_random(void) {
    seed = 11;
    for (uint32_t round = 0; round < 3000; round++) {
        uint32_t members = 1 + (uint32_t)(draw() % 9), capacity[9], room[9], given[9] = {0};
        uint8_t member[128], before[128];
        struct fal_steering s = {
            draw() & 1 ? FAL_MODE_ROLLOVER : FAL_MODE_RND, members, draw(), NULL, {0}};
        for (uint32_t i = 0; i < members; i++) {
            capacity[i] = 64u << draw() % 3;
            room[i] = (uint32_t)(draw() % (capacity[i] + 1));
            s.elsewhere[i] = (uint8_t)draw();
        }
        uint32_t room_before[9];
        memcpy(room_before, room, sizeof room);
        steer(&s, NULL, 128, before);
        memcpy(member, before, sizeof member);
        fal_rollover(&s, capacity, room, ones, 128, member);
        for (uint32_t i = 0; i < 128; i++) {
            uint32_t m = member[i];
            CHECK(m < members);
            if (given[m] < room_before[m]) {
                CHECK(s.mode == FAL_MODE_ROLLOVER || m == before[i] ||
                      (room_before[m] - given[m]) * 4 > capacity[m]);
                given[m]++;
                continue;
            }
            for (uint32_t k = 0; k < members; k++) { /* dropped */
                uint32_t left = room_before[k] - given[k];
                CHECK(s.mode == FAL_MODE_ROLLOVER ? !left : left * 4 <= capacity[k]);
            }
        }
        for (uint32_t i = 0; i < members; i++)
            CHECK(room[i] == room_before[i] - given[i]);
    }
}

int main(void) {
    memset(ones, 1, sizeof ones);
    test_join_and_leave();
    test_order_does_not_matter();
    test_smallest_and_largest();
    test_equal_and_regular_ids();
    test_table_stays_the_same();
    test_steer_hash();
    test_steer_lb();
    test_steer_unknown();
    test_steer_rnd();
    test_steer_by_numbers();
    test_rollover_fills_one_after_the_other();
    test_rollover_overflows();
    test_rollover_at_random();
    return 0;
}
