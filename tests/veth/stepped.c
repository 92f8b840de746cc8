/* Who reads after one that was killed in the middle of it: stepped DEVICE, then for each line of
 * standard input, a number: a child receives, and is killed after so many instructions; the next
 * child reads what there is, and prints the last byte of each packet's number.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <err.h>
#include <fal.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define NUMBER 49

static void killed_after(struct fal_socket *s, long instructions) {
    pid_t child = fork();
    int status;
    if (child == 0) {
        struct fal_batch batch;
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        fal_receive(s, 1024, &batch);
        raise(SIGSTOP);
    }
    waitpid(child, &status, 0);
    do {
        ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
        waitpid(child, &status, 0);
    } while (instructions-- && WSTOPSIG(status) == SIGTRAP);
    fputs(WSTOPSIG(status) == SIGTRAP ? "killed" : "done", stdout);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
}

static void read_all(struct fal_socket *s) {
    struct fal_batch batch;
    fflush(stdout);
    pid_t child = fork();
    if (child)
        waitpid(child, NULL, 0);
    else {
        while (fal_wait(s, 60, NULL) > 0)
            while (fal_receive(s, 1024, &batch) > 0)
                for (uint32_t i = 0; i < batch.count; i++)
                    printf(" %u", batch.frames[batch.packets[i].offset + NUMBER]);
        puts("");
        fflush(stdout);
        _exit(0);
    }
}

int main(int argc, char **argv) {
    struct fal_error e;
    long instructions;
    struct fal_socket *s = fal_open(64, &e);
    if (argc != 2 || !s || fal_attach(s, argv[1], &e) < 0 || fal_start(s, &e) < 0)
        errx(1, "%s", e.text);
    puts("ready");
    fflush(stdout);
    while (scanf("%ld", &instructions) == 1) {
        killed_after(s, instructions);
        read_all(s);
    }
    fal_close(s);
    return 0;
}
