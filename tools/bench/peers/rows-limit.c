// The limit of what stands before PostgreSQL: one thread with an epoll, and a few with a connection each that take all
// requests that wait, as one statement. Nothing is parsed but a key's place, nothing is kept, put in order or counted, and all
// get the same answer, which is given in a file. The sessions and the statements are hotrow's own. Whatever a server does
// besides is what it costs above this.
//
// One request at a time on a connection, and no larger than one read. Arguments: the port, the file of the answer, the
// database, the number of threads, the file of what a session begins with, the file of the statement. Where the name of that
// begins with "set" it is for the PUTs alone, and a GET is answered as if its row were in memory.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <libgen.h>
#include <libpq-fe.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 1024, CONNECTIONS = 4096, INPUT_BYTES = 4096, ARRAY_BYTES = 256 << 10 };
enum { VARCHAR = 1043, TEXT = 25, FLOAT8 = 701 }; // types, by their numbers in pg_type

// What a connection asks for. It is the loop's until it is in `waiting`, and again from when it is in `answered`.
static struct { char input[INPUT_BYTES]; const char *key, *value; int key_bytes, value_bytes; } requests[CONNECTIONS];

typedef struct { pthread_mutex_t lock; int fds[CONNECTIONS], count; } Queue;
static Queue waiting = {.lock = PTHREAD_MUTEX_INITIALIZER}, answered = {.lock = PTHREAD_MUTEX_INITIALIZER};
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
static int idle; // threads that wait for `more`; under the lock of `waiting`
static int bell; // of the loop: there are answers

static const char *database, *settings, *statement, *answer;
static size_t answer_bytes;
static int writes;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static char *load(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    fseek(file, 0, SEEK_END);
    *length = ftell(file);
    rewind(file);
    char *bytes = calloc(1, *length + 1);
    if (!bytes || fread(bytes, 1, *length, file) != *length) die(path);
    fclose(file);
    return bytes;
}

// An array as PostgreSQL takes it in binary: dimensions, whether it has nulls, type, then length and first index of the one.
typedef struct { char bytes[ARRAY_BYTES]; int length; } Array;

static void append(Array *array, const void *bytes, int length) {
    if (array->length + length > ARRAY_BYTES) errno = E2BIG, die("batch");
    memcpy(array->bytes + array->length, bytes, length);
    array->length += length;
}

static void append_int(Array *array, int32_t number) {
    number = htonl(number);
    append(array, &number, sizeof number);
}

static void begin(Array *array, int type, int count) {
    array->length = 0;
    append_int(array, 1), append_int(array, 1), append_int(array, type), append_int(array, count), append_int(array, 1);
}

static int by_key(const void *a, const void *b) {
    int left = *(const int *)a, right = *(const int *)b;
    int shorter = requests[left].key_bytes < requests[right].key_bytes ? left : right;
    int order = memcmp(requests[left].key, requests[right].key, requests[shorter].key_bytes);
    return order ? order : requests[left].key_bytes - requests[right].key_bytes;
}

// One statement for all of these; of writes to one key the last one's value.
static void execute(PGconn *connection, int *fds, int count) {
    static __thread Array keys, values, lives;
    qsort(fds, count, sizeof *fds, by_key);
    int rows = 0;
    for (int i = 0; i < count; i++)
        if (i + 1 == count || by_key(&fds[i], &fds[i + 1])) fds[rows++] = fds[i];
    begin(&keys, VARCHAR, rows), begin(&values, TEXT, rows), begin(&lives, FLOAT8, rows);
    for (int i = 0; i < rows; i++) {
        append_int(&keys, requests[fds[i]].key_bytes), append(&keys, requests[fds[i]].key, requests[fds[i]].key_bytes);
        append_int(&values, requests[fds[i]].value_bytes), append(&values, requests[fds[i]].value, requests[fds[i]].value_bytes);
        append_int(&lives, -1); // null: for ever
    }
    const char *const arguments[] = {keys.bytes, values.bytes, lives.bytes};
    const int lengths[] = {keys.length, values.length, lives.length}, binary[] = {1, 1, 1};
    PGresult *result = PQexecPrepared(connection, "", writes ? 3 : 1, arguments, lengths, binary, 1);
    if (PQresultStatus(result) != PGRES_TUPLES_OK) fputs(PQerrorMessage(connection), stderr), exit(1);
    PQclear(result);
}

static void *work(void *unused) {
    PGconn *connection = PQconnectdb(database);
    PGresult *set = PQexec(connection, settings), *prepared = PQprepare(connection, "", statement, 0, NULL);
    if (PQresultStatus(set) != PGRES_COMMAND_OK || PQresultStatus(prepared) != PGRES_COMMAND_OK)
        fputs(PQerrorMessage(connection), stderr), exit(1);
    PQclear(set), PQclear(prepared);
    for (int taken[CONNECTIONS], sorted[CONNECTIONS];;) {
        pthread_mutex_lock(&waiting.lock);
        idle++;
        while (!waiting.count) pthread_cond_wait(&more, &waiting.lock);
        // Whoever is idle too takes a share.
        int count = (waiting.count + idle - 1) / idle;
        idle--;
        waiting.count -= count;
        memcpy(taken, waiting.fds + waiting.count, count * sizeof *taken);
        pthread_mutex_unlock(&waiting.lock);

        memcpy(sorted, taken, count * sizeof *taken);
        execute(connection, sorted, count);

        pthread_mutex_lock(&answered.lock);
        int first = !answered.count;
        memcpy(answered.fds + answered.count, taken, count * sizeof *taken);
        answered.count += count;
        pthread_mutex_unlock(&answered.lock);
        if (first && eventfd_write(bell, 1)) die("eventfd");
    }
    return unused;
}

static int listen_on(int port) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) die("listen");
    return listener;
}

static void watch(int poll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
}

// What comes first, "GET /kv/" or "PUT /kv/", has eight bytes; then the key up to a space; after an empty line the value.
// False if the connection is gone.
static int read_request(int fd) {
    char *input = requests[fd].input;
    ssize_t got = read(fd, input, INPUT_BYTES);
    if (got <= 0) return 0;
    char *key_end = got > 8 ? memchr(input + 8, ' ', got - 8) : NULL, *head_end = memmem(input, got, "\r\n\r\n", 4);
    if (!key_end || !head_end) return 0;
    requests[fd].key = input + 8, requests[fd].key_bytes = key_end - requests[fd].key;
    requests[fd].value = head_end + 4, requests[fd].value_bytes = input + got - requests[fd].value;
    return 1;
}

static void send_answer(int fd) {
    if (send(fd, answer, answer_bytes, MSG_NOSIGNAL) != (ssize_t)answer_bytes) shutdown(fd, SHUT_RDWR);
}

static void answer_all(void) {
    static int fds[CONNECTIONS];
    eventfd_t rung;
    eventfd_read(bell, &rung);
    pthread_mutex_lock(&answered.lock);
    int count = answered.count;
    memcpy(fds, answered.fds, count * sizeof *fds);
    answered.count = 0;
    pthread_mutex_unlock(&answered.lock);
    for (int i = 0; i < count; i++) send_answer(fds[i]);
}

int main(int count, char **arguments) {
    static struct epoll_event events[EVENTS];
    if (count != 7)
        return fprintf(stderr, "usage: rows-limit PORT ANSWER-FILE DATABASE THREADS SESSION-FILE STATEMENT-FILE\n"), 2;
    size_t unused;
    answer = load(arguments[2], &answer_bytes);
    database = arguments[3], settings = load(arguments[5], &unused), statement = load(arguments[6], &unused);
    writes = !strncmp(basename(arguments[6]), "set", 3);
    bell = eventfd(0, EFD_NONBLOCK);
    for (int i = atoi(arguments[4]); i > 0; i--) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, NULL)) die("thread");
    }
    int listener = listen_on(atoi(arguments[1])), poll = epoll_create1(0);
    watch(poll, listener), watch(poll, bell);
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS, -1), new[EVENTS], news = 0;
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd, one = 1;
            if (fd == bell) {
                answer_all();
            } else if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (fd >= CONNECTIONS) { close(fd); continue; }
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    watch(poll, fd);
                }
            } else if (!read_request(fd)) {
                close(fd);
            } else if (writes && requests[fd].input[0] == 'G') {
                send_answer(fd);
            } else {
                new[news++] = fd;
            }
        }
        if (!news) continue;
        pthread_mutex_lock(&waiting.lock);
        memcpy(waiting.fds + waiting.count, new, news * sizeof *new);
        waiting.count += news;
        int sleepers = idle < news ? idle : news;
        pthread_mutex_unlock(&waiting.lock);
        while (sleepers-- > 0) pthread_cond_signal(&more);
    }
}
