/* The least that a program can do which starts another: what benches/compare shows beside flock(1).

       floor COMMAND               starts it, and waits for its end
       floor -p PORT COMMAND       the same in two processes, one of which asks a Redis before and after it
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int run(char **command) {
    pid_t child;
    int status;
    if (posix_spawnp(&child, command[0], 0, 0, command, environ) != 0) return 1;
    return waitpid(child, &status, 0) == child && status == 0 ? 0 : 1;
}

static int dial(const char *port) {
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    int one = 1, redis = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(redis, (struct sockaddr *)&server, sizeof server) != 0) _exit(1);
    setsockopt(redis, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return redis;
}

static void say(int redis) {
    if (write(redis, "PING\r\n", 6) != 6) _exit(1);
}

static void hear(int redis) {
    char answer[64];
    if (read(redis, answer, sizeof answer) <= 0) _exit(1);
}

int main(int count, char **words) {
    int redis, link[2];
    char done;
    if (count < 2) return 64;
    if (strcmp(words[1], "-p") != 0) return run(words + 1);
    if (count < 4) return 64;
    redis = dial(words[2]);
    /* It answers while the second process is made. */
    say(redis);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) != 0) return 1;
    switch (fork()) {
    case -1:
        return 1;
    case 0:
        hear(redis);
        done = run(words + 3);
        say(redis);
        hear(redis);
        if (write(link[1], &done, 1) != 1) _exit(1);
        _exit(0);
    default:
        close(link[1]);
        return read(link[0], &done, 1) == 1 ? done : 1;
    }
}
