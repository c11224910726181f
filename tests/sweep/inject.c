/* inject PROCESS CALL ACTION FILE COMMAND [ARG]...
 *
 * Becomes COMMAND, with something that happens to it at one system call. PROCESS is 0 for COMMAND
 * itself, 1 for the first process that it forks, 2 for the second, each until it executes something
 * else. CALL counts the calls of that process and its threads from 1. Those of the loader are left
 * out: a program's own begin with its first poll(2) or rt_sigaction(2). Of a walk through /proc only
 * the first one counts: the others change nothing, and there are thousands. ACTION is what happens
 * when the call is about to be made:
 *
 *   kill   SIGKILL to the process
 *   stop   SIGSTOP to it, and it stops when it has made the call
 *   E:N:K  the call is not made, and fails with the errno E; or, if it is none with the number N and a
 *          KIND that begins with K, the next one that is
 *   list   nothing; FILE gets a line "PROCESS NUMBER KIND" for each call of all these processes,
 *          where KIND begins with what the first argument is if it is a descriptor: a path, `fifo:`,
 *          `socket:`, `pipe:` or `anon_inode:`
 *
 * Otherwise FILE gets "PID NUMBER" when it has happened. The tracer is no child of COMMAND, and is
 * gone when something has happened: what comes afterwards runs as ever.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __x86_64__
#error "inject.c needs to know the registers of this machine's system calls"
#endif

enum { TASKS = 4096, OTHER = -1 };
static const long OPTIONS = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK
                            | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC;

struct task { pid_t id, process; int number; };
static struct task tasks[TASKS];
static int count, forked;
static FILE *file;

static struct task *find(pid_t id) {
    for (int at = 0; at < count; at++)
        if (tasks[at].id == id) return &tasks[at];
    return NULL;
}

static void add(pid_t id, pid_t process, int number) {
    if (count == TASKS || find(id)) return;
    tasks[count++] = (struct task){id, process, number};
}

static void drop(pid_t id) {
    struct task *task = find(id);
    if (task) *task = tasks[--count];
}

static pid_t process_of(pid_t id) {
    char path[64], line[256];
    int process = id;
    snprintf(path, sizeof path, "/proc/%d/status", id);
    FILE *status = fopen(path, "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "Tgid: %d", &process) == 1) break;
    if (status) fclose(status);
    return process;
}

/* What the first argument of a call is, if it is a descriptor. */
static void describe(char *kind, size_t size, pid_t process, int descriptor) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", process, descriptor);
    ssize_t length = readlink(path, kind, size - 1);
    struct stat status;
    strcpy(kind + (length > 0 ? length : 0), length > 0 ? "" : "-");
    if (*kind == '/' && (stat(path, &status) || S_ISFIFO(status.st_mode))) strcpy(kind, "fifo:");
}

/* Whether the call looks at something in /proc. */
static int looks_at_processes(pid_t id, const struct __ptrace_syscall_info *info, const char *kind) {
    if (!strncmp(kind, "/proc", 5)) return 1;
    if (info->entry.nr != SYS_openat) return 0;
    long word = ptrace(PTRACE_PEEKDATA, id, info->entry.args[1], 0);
    return !memcmp(&word, "/proc/", 6);
}

static void set_registers(pid_t id, int number, int error) {
    struct user_regs_struct registers;
    ptrace(PTRACE_GETREGS, id, 0, &registers);
    if (error) registers.rax = -error;
    else registers.orig_rax = number;
    ptrace(PTRACE_SETREGS, id, 0, &registers);
}

static void trace(pid_t command, int chosen, long call, const char *action) {
    int status, began = 0, executed = 0, error = 0, wanted = 0;
    char of = 0;
    sscanf(action, "%d:%d:%c", &error, &wanted, &of);
    pid_t failing = 0, id;
    long calls = 0;
    add(command, command, 0);
    while (count && ((id = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR)) {
        if (!WIFSTOPPED(status)) { drop(id); continue; }
        int signal = WSTOPSIG(status), event = status >> 16;
        if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE) {
            unsigned long new;
            ptrace(PTRACE_GETEVENTMSG, id, 0, &new);
            struct task *parent = find(id);
            pid_t process = process_of((pid_t)new);
            int thread = process != (pid_t)new;
            add((pid_t)new, process, thread && parent ? parent->number : ++forked);
        } else if (event == PTRACE_EVENT_EXEC && executed++) {
            drop(id);
            ptrace(PTRACE_DETACH, id, 0, 0);
            continue;
        } else if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {
            ptrace(PTRACE_LISTEN, id, 0, 0);
            continue;
        } else if (signal == (SIGTRAP | 0x80)) {
            struct __ptrace_syscall_info info = {0};
            ptrace(PTRACE_GET_SYSCALL_INFO, id, sizeof info, &info);
            struct task *task = find(id);
            int number = (int)info.entry.nr;
            if (info.op == PTRACE_SYSCALL_INFO_EXIT && id == failing) {
                set_registers(id, 0, error);
                return;
            }
            if (info.op == PTRACE_SYSCALL_INFO_ENTRY && task && executed) {
                char kind[16];
                describe(kind, sizeof kind, task->process, (int)info.entry.args[0]);
                began |= number == SYS_poll || number == SYS_rt_sigaction;
                int counts = began && !looks_at_processes(id, &info, kind);
                if (counts && !strcmp(action, "list")) {
                    fprintf(file, "%d %d %s\n", task->number, number, kind);
                } else if (counts && !failing && task->number == chosen && ++calls >= call
                           && (!error || (number == wanted && *kind == of))) {
                    fprintf(file, "%d %d\n", task->process, number);
                    fflush(file);
                    if (!error) {
                        kill(task->process, action[0] == 'k' ? SIGKILL : SIGSTOP);
                        return;
                    }
                    set_registers(id, -1, 0);
                    failing = id;
                }
            }
        } else if (!event) {
            ptrace(PTRACE_SYSCALL, id, 0, signal);
            continue;
        }
        ptrace(PTRACE_SYSCALL, id, 0, 0);
    }
}

int main(int arguments, char **words) {
    int ready[2];
    pid_t command = getpid();
    if (arguments < 6 || pipe2(ready, O_CLOEXEC)) return 125;
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    pid_t between = fork();
    if (!between) {
        if (fork()) _exit(0);
        signal(SIGHUP, SIG_IGN);
        file = fopen(words[4], "w");
        /* No process shall wait for the end of a pipe because of this one. */
        for (int other = 0; other < 3; other++) close(other);
        if (!file || ptrace(PTRACE_SEIZE, command, 0, OPTIONS) || ptrace(PTRACE_INTERRUPT, command, 0, 0))
            _exit(125);
        if (write(ready[1], "", 1) != 1) _exit(125);
        trace(command, atoi(words[1]), atol(words[2]), words[3]);
        fclose(file);
        _exit(0);
    }
    waitpid(between, NULL, 0);
    close(ready[1]);
    char byte;
    if (read(ready[0], &byte, 1) != 1) return 125;
    execvp(words[5], words + 5);
    return 127;
}
