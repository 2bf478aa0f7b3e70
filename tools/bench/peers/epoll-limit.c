// The kernel's limit: one thread, one epoll, and no HTTP. It finds the ends of requests by their empty lines alone,
// and answers each with the same bytes, which it is given in a file: what hotrow itself answers. Whatever a server does
// besides is what it costs above this.
//
// Arguments: the port, the file.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 1024, INPUT_BYTES = 64 << 10, CONNECTIONS = 1 << 16, BURST_BYTES = 256 << 10 };

// What a connection has still to be sent, and how much of an empty line it has sent last (0 to 3 bytes of it).
static struct { size_t owed; int matched; } connections[CONNECTIONS];

// Copies of the answer, one behind the other: `answer_bytes` long each.
static char *answers;
static size_t answer_bytes, copies;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void load_answer(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    fseek(file, 0, SEEK_END);
    answer_bytes = ftell(file);
    rewind(file);
    copies = 2 + BURST_BYTES / answer_bytes;
    answers = malloc(copies * answer_bytes);
    if (!answers || fread(answers, 1, answer_bytes, file) != answer_bytes) die(path);
    fclose(file);
    for (size_t i = 1; i < copies; i++) memcpy(answers + i * answer_bytes, answers, answer_bytes);
}

static int listen_on(int port) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) die("listen");
    return listener;
}

// Empty lines in these bytes; one may have begun in earlier ones.
static size_t count_requests(int fd, const char *bytes, size_t length) {
    size_t found = 0;
    int matched = connections[fd].matched;
    const char *end = bytes + length;
    for (const char *at = bytes; at < end; at++) {
        if (matched == 0 && !(at = memchr(at, '\r', end - at))) break;
        if (*at == "\r\n\r\n"[matched]) matched++;
        else matched = *at == '\r';
        if (matched == 4) matched = 0, found++;
    }
    connections[fd].matched = matched;
    return found;
}

// Sends what is owed, as far as the socket takes it. False if the connection is gone.
static int flush(int poll, int fd, int was_waiting) {
    size_t *owed = &connections[fd].owed;
    while (*owed) {
        // The next byte to send is where the first unfinished answer has been left.
        size_t begun = (answer_bytes - *owed % answer_bytes) % answer_bytes;
        size_t length = copies * answer_bytes - begun;
        ssize_t sent = write(fd, answers + begun, length < *owed ? length : *owed);
        if (sent < 0 && errno != EAGAIN) return 0;
        if (sent < 0) break;
        *owed -= sent;
    }
    if (was_waiting != (*owed != 0)) {
        struct epoll_event event = {.events = *owed ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.fd = fd};
        epoll_ctl(poll, EPOLL_CTL_MOD, fd, &event);
    }
    return 1;
}

int main(int count, char **arguments) {
    static char input[INPUT_BYTES];
    static struct epoll_event events[EVENTS];
    if (count != 3) return fprintf(stderr, "usage: epoll-limit PORT FILE\n"), 2;
    load_answer(arguments[2]);
    int listener = listen_on(atoi(arguments[1])), poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd, one = 1;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (fd >= CONNECTIONS) { close(fd); continue; }
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    memset(&connections[fd], 0, sizeof connections[fd]);
                    event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
                    epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
                }
                continue;
            }
            int waiting = connections[fd].owed != 0, open = 1;
            if (events[i].events & ~EPOLLOUT) {
                ssize_t got = read(fd, input, sizeof input);
                if (got > 0) connections[fd].owed += answer_bytes * count_requests(fd, input, got);
                else open = got < 0 && errno == EAGAIN;
            }
            if (!open || !flush(poll, fd, waiting)) close(fd);
        }
    }
}
