/* The pieces of a datagram stay together, whatever their order; the table is bounded, and counts
 * what it had to forget.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "defrag.h"

#include "check.h"

#include <string.h>

enum { SETS = FAL_DEFRAG_SETS, WAYS = FAL_DEFRAG_WAYS, ALL = SETS * WAYS };
#define SECOND UINT64_C(1000000000)

static struct fal_defrag table;
static uint64_t now = 1;

static void empty(void) {
    memset(&table, 0, sizeof table);
}

/* Hashes that tell by what the decision was made: 1000 by addresses, else by the ports. */
static uint32_t piece(uint64_t datagram, int first, uint32_t ports) {
    struct fal_flow flow = {.hash = 1000,
                            .flags = (uint16_t)(FAL_FLOW_FRAGMENT | (first ? FAL_FLOW_FIRST : 0)),
                            .datagram = datagram,
                            .whole = ports};
    return fal_defrag(&table, 0, &flow, now);
}

static void test_the_first_to_arrive_decides(void) {
    empty();
    CHECK(piece(1, 1, 7) == 7 && piece(1, 0, 0) == 7 && piece(1, 0, 0) == 7);
    CHECK(piece(2, 0, 0) == 1000 && piece(2, 1, 7) == 1000 && piece(2, 0, 0) == 1000);
    CHECK(table.evicted == 0);
}

static void test_identifications_are_used_again(void) {
    empty();
    CHECK(piece(1, 1, 7) == 7 && piece(1, 0, 0) == 7);
    CHECK(piece(1, 1, 8) == 8 && piece(1, 0, 0) == 8);
    CHECK(piece(2, 0, 0) == 1000 && piece(2, 1, 7) == 1000 && piece(2, 1, 8) == 8);
    CHECK(table.evicted == 0);
}

static void test_groups_do_not_see_each_other(void) {
    empty();
    struct fal_flow first = {.hash = 1000,
                             .flags = FAL_FLOW_FRAGMENT | FAL_FLOW_FIRST,
                             .datagram = 1,
                             .whole = 7},
                    later = first;
    later.flags = FAL_FLOW_FRAGMENT;
    for (uint32_t group = 0; group < 3; group++)
        CHECK(fal_defrag(&table, group, &later, now) == 1000);
    for (uint32_t group = 0; group < 3; group++)
        CHECK(fal_defrag(&table, group, &first, now) == 1000);
    CHECK(fal_defrag(&table, 3, &first, now) == 7);
}

static void test_ageing(void) {
    empty();
    now = SECOND;
    CHECK(piece(1, 1, 7) == 7);
    now += FAL_DEFRAG_NS - 1;
    CHECK(piece(1, 0, 0) == 7); /* which keeps it for longer */
    now += FAL_DEFRAG_NS - 1;
    CHECK(piece(1, 0, 0) == 7);
    now += FAL_DEFRAG_NS;
    CHECK(piece(1, 0, 0) == 1000);
    now = SECOND; /* a clock that is set back: forgotten, and learned again */
    CHECK(piece(1, 1, 9) == 9 && piece(1, 0, 0) == 9);
    CHECK(table.evicted == 0);
}

static void test_bounded(void) {
    empty();
    now = SECOND;
    uint64_t datagrams = 100 * ALL;
    for (uint64_t i = 0; i < datagrams; i++, now++) {
        CHECK(piece(i * 3, 1, 7) == 7);
        CHECK(piece(i * 3, 0, 0) == 7);
    }
    CHECK(table.evicted == datagrams - ALL); /* all the room was used, and each loss counted */
    uint64_t known = 0;
    for (uint64_t i = datagrams - ALL / 2; i < datagrams; i++)
        known += piece(i * 3, 0, 0) == 7;
    CHECK(known > ALL / 2 * 9 / 10); /* the oldest went */

    uint64_t evicted = table.evicted;
    now += FAL_DEFRAG_NS;
    for (uint64_t i = 0; i < ALL / 2; i++)
        piece(i * 5, 1, 7);
    CHECK(table.evicted - evicted < ALL / 20); /* what has aged is no loss */
}

int main(void) {
    test_the_first_to_arrive_decides();
    test_identifications_are_used_again();
    test_groups_do_not_see_each_other();
    test_ageing();
    test_bounded();
    return 0;
}
