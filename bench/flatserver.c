/* A server that is cheap enough not to be the limit: it answers every completion with the same
 * stream (first token after --ttft-ms, the others every --itl-ms), and logs when it had read each
 * request and when it wrote each chunk, on CLOCK_MONOTONIC. It imitates the shape of vLLM's
 * streams and nothing else; what is measured against it is the client.
 *
 *   cc -O2 -o flatserver flatserver.c
 *   ./flatserver --ttft-ms 200 --itl-ms 20 --truth truth.jsonl     prints {"url": ...} when ready
 *
 * With --itl-ms 0 it is flat out: every stream gets a chunk in turn, as fast as they are taken.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_FD 65536
#define ID_LEN 128

typedef struct {
    char *in;               /* what has been read of the request */
    size_t have, room;
    char id[ID_LEN];        /* its X-Request-Id */
    int64_t read_ns;        /* request complete */
    int64_t due_ns;         /* next chunk; 0: none */
    int tokens, sent;       /* asked for, written */
    int text;               /* of /v1/completions: text, no role and no delta */
    int64_t *stamps;        /* one per chunk with a token */
    int stamp_room;
    char *out;              /* bytes that the socket did not take */
    size_t out_have, out_at;
    int heap_at;            /* place in the heap; -1: not in it */
} Conn;

static Conn *conns[MAX_FD];
static int *heap, heap_len, heap_room;
static int ep;
static int64_t ttft_ns = 200000000, itl_ns = 20000000;
static FILE *truth;
static volatile sig_atomic_t stopping;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what) {
    fprintf(stderr, "flatserver: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* ---- a heap of connections by due time ---- */

static void place(int at, int fd) { heap[at] = fd; conns[fd]->heap_at = at; }

static void sift_up(int at) {
    int fd = heap[at];
    while (at > 0 && conns[heap[(at - 1) / 2]]->due_ns > conns[fd]->due_ns) {
        place(at, heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    place(at, fd);
}

static void sift_down(int at) {
    int fd = heap[at];
    for (;;) {
        int child = 2 * at + 1;
        if (child >= heap_len) break;
        if (child + 1 < heap_len && conns[heap[child + 1]]->due_ns < conns[heap[child]]->due_ns)
            child++;
        if (conns[heap[child]]->due_ns >= conns[fd]->due_ns) break;
        place(at, heap[child]);
        at = child;
    }
    place(at, fd);
}

static void heap_add(int fd) {
    if (heap_len == heap_room) {
        heap_room = heap_room ? 2 * heap_room : 1024;
        heap = realloc(heap, sizeof *heap * (size_t)heap_room);
        if (!heap) die("memory");
    }
    place(heap_len, fd);
    sift_up(heap_len++);
}

static void heap_drop(int fd) {
    int at = conns[fd]->heap_at;
    if (at < 0) return;
    conns[fd]->heap_at = -1;
    int last = heap[--heap_len];
    if (last == fd) return;
    place(at, last);
    sift_up(at);
    sift_down(conns[last]->heap_at);
}

/* ---- writing ---- */

static void close_conn(int fd) {
    Conn *c = conns[fd];
    heap_drop(fd);
    free(c->in); free(c->stamps); free(c->out); free(c);
    conns[fd] = NULL;
    close(fd);
}

static int put(int fd, const char *data, size_t len) {
    Conn *c = conns[fd];
    if (!c->out_have) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n == (ssize_t)len) return 0;
        if (n < 0 && errno != EAGAIN) return -1;
        if (n > 0) { data += n; len -= (size_t)n; }
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.fd = fd};
        epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e);
        c->out_at = 0;
    }
    c->out = realloc(c->out, c->out_at + c->out_have + len);
    if (!c->out) die("memory");
    memcpy(c->out + c->out_at + c->out_have, data, len);
    c->out_have += len;
    return 0;
}

static int flush_out(int fd) {
    Conn *c = conns[fd];
    ssize_t n = send(fd, c->out + c->out_at, c->out_have, MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    c->out_at += (size_t)n;
    c->out_have -= (size_t)n;
    if (!c->out_have) {
        c->out_at = 0;
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e);
    }
    return 0;
}

static size_t chunked(char *to, const char *event) {
    return (size_t)sprintf(to, "%zx\r\n%s\r\n", strlen(event), event);
}

static int plain(int fd, int status, const char *body) {
    char answer[1024];
    int n = snprintf(answer, sizeof answer,
        "HTTP/1.1 %d %s\r\nserver: flatserver\r\ncontent-type: application/json\r\n"
        "content-length: %zu\r\n\r\n%s",
        status, status == 200 ? "OK" : "Not Found", strlen(body), body);
    return put(fd, answer, (size_t)n);
}

static void log_request(Conn *c, int64_t end_ns) {
    if (!truth) return;
    fprintf(truth, "{\"request_id\":\"%s\",\"read_ns\":%lld,\"write_ns\":[", c->id,
        (long long)c->read_ns);
    for (int i = 0; i < c->sent; i++)
        fprintf(truth, i ? ",%lld" : "%lld", (long long)c->stamps[i]);
    fprintf(truth, "],\"end_ns\":%lld}\n", (long long)end_ns);
}

#define HEAD "data: {\"id\":\"%s\",\"object\":\"%s\",\"created\":1,\"model\":\"flat\",\"choices\":"

/* The next chunk of a stream: with the first one the head and the role, with the last the end. */
static int step(int fd) {
    Conn *c = conns[fd];
    static char event[1024], wire[8192];
    size_t at = 0;
    int first = c->sent == 0, last = c->sent + 1 == c->tokens;
    const char *kind = c->text ? "text_completion" : "chat.completion.chunk";
    const char *word = c->text ? "\"text\":\" word\"" : "\"delta\":{\"content\":\" word\"}";
    if (first)
        at += (size_t)sprintf(wire,
            "HTTP/1.1 200 OK\r\nserver: flatserver\r\n"
            "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
    if (first && !c->text) {
        snprintf(event, sizeof event, HEAD "[{\"index\":0,\"delta\":{\"role\":\"assistant\","
            "\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n", c->id, kind);
        at += chunked(wire + at, event);
    }
    snprintf(event, sizeof event, HEAD "[{\"index\":0,%s,"
        "\"logprobs\":null,\"finish_reason\":%s,\"token_ids\":null}]}\n\n",
        c->id, kind, word, last ? "\"length\"" : "null");
    at += chunked(wire + at, event);
    c->stamps[c->sent] = now_ns();
    if (put(fd, wire, at)) return -1;
    c->sent++;
    if (!last) {
        /* Flat out, a stream goes behind all others: one write a chunk, as an engine's step does. */
        c->due_ns = itl_ns ? c->due_ns + itl_ns : now_ns();
        return 0;
    }
    snprintf(event, sizeof event, HEAD "[],\"usage\":{\"prompt_tokens\":100,\"total_tokens\":%d,"
        "\"completion_tokens\":%d}}\n\n", c->id, kind, 100 + c->tokens, c->tokens);
    at = chunked(wire, event);
    at += chunked(wire + at, "data: [DONE]\n\n");
    at += (size_t)sprintf(wire + at, "0\r\n\r\n");
    log_request(c, now_ns());
    c->due_ns = 0;
    return put(fd, wire, at);
}

/* ---- reading ---- */

static const char *header(const char *head, const char *end, const char *name) {
    size_t n = strlen(name);
    for (const char *p = head; p && p < end; p = strstr(p, "\r\n"), p = p ? p + 2 : p)
        if (!strncasecmp(p, name, n) && p[n] == ':') {
            p += n + 1;
            while (*p == ' ') p++;
            return p;
        }
    return NULL;
}

/* Clients name it one way or the other; vLLM's own default is 16. */
static int tokens_asked(const char *body) {
    static const char *const names[] = {"\"max_completion_tokens\":", "\"max_tokens\":"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *asked = strstr(body, names[i]);
        if (asked) return atoi(asked + strlen(names[i]));
    }
    return 16;
}

static int begin_stream(int fd, const char *head, const char *body_at) {
    Conn *c = conns[fd];
    const char *id = header(head, body_at, "x-request-id");
    size_t n = 0;
    while (id && n < ID_LEN - 1 && id[n] > ' ' && id[n] != '"' && id[n] != '\\') n++;
    memcpy(c->id, id ? id : "-", n ? n : 1);
    c->id[n ? n : 1] = 0;
    c->tokens = tokens_asked(body_at);
    c->text = !strncmp(head, "POST /v1/completions", 20);
    if (c->tokens < 1) c->tokens = 1;
    if (c->tokens > c->stamp_room) {
        c->stamp_room = c->tokens;
        c->stamps = realloc(c->stamps, sizeof *c->stamps * (size_t)c->stamp_room);
        if (!c->stamps) die("memory");
    }
    c->sent = 0;
    c->read_ns = now_ns();
    c->due_ns = c->read_ns + ttft_ns;
    heap_add(fd);
    return 0;
}

static int answer(int fd, const char *head, const char *body_at) {
    if (!strncmp(head, "POST /v1/", 9)) return begin_stream(fd, head, body_at);
    if (!strncmp(head, "GET /v1/models", 14))
        return plain(fd, 200, "{\"object\":\"list\",\"data\":[{\"id\":\"flat\",\"object\":\"model\","
            "\"created\":1,\"owned_by\":\"kvsim\",\"max_model_len\":131072}]}");
    if (!strncmp(head, "GET /health", 11)) return plain(fd, 200, "{}");
    if (!strncmp(head, "GET /version", 12)) return plain(fd, 200, "{\"version\":\"0\"}");
    return plain(fd, 404, "{\"detail\":\"Not Found\"}");
}

/* Every whole request that has come; 0, or -1 to close. */
static int requests(int fd) {
    Conn *c = conns[fd];
    for (;;) {
        c->in[c->have] = 0;
        char *body = strstr(c->in, "\r\n\r\n");
        if (!body) return 0;
        body += 4;
        const char *length = header(c->in, body, "content-length");
        size_t whole = (size_t)(body - c->in) + (length ? strtoul(length, NULL, 10) : 0);
        if (c->have < whole) return 0;
        char kept = c->in[whole];
        c->in[whole] = 0;
        if (answer(fd, c->in, body)) return -1;
        c->in[whole] = kept;
        memmove(c->in, c->in + whole, c->have - whole);
        c->have -= whole;
    }
}

static int readable(int fd) {
    Conn *c = conns[fd];
    for (;;) {
        if (c->room - c->have < 65536) {
            c->room = c->room ? 2 * c->room : 131072;
            c->in = realloc(c->in, c->room + 1);
            if (!c->in) die("memory");
        }
        ssize_t n = recv(fd, c->in + c->have, c->room - c->have, 0);
        if (n == 0) return -1;
        if (n < 0) return errno == EAGAIN ? requests(fd) : -1;
        c->have += (size_t)n;
    }
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MAX_FD) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        conns[fd] = calloc(1, sizeof(Conn));
        if (!conns[fd]) die("memory");
        conns[fd]->heap_at = -1;
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    }
}

/* What is due now; flat out, everything is always due, and the sockets must be looked at too. */
static void run_due(void) {
    int64_t until = now_ns();
    while (heap_len && conns[heap[0]]->due_ns <= until) {
        int fd = heap[0];
        if (step(fd)) { close_conn(fd); continue; }
        if (conns[fd]->due_ns) sift_down(0);
        else heap_drop(fd);
    }
}

static void on_signal(int signum) { (void)signum; stopping = 1; }

int main(int argc, char **argv) {
    int port = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port")) port = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--ttft-ms")) ttft_ns = (int64_t)(atof(argv[i + 1]) * 1e6);
        else if (!strcmp(argv[i], "--itl-ms")) itl_ns = (int64_t)(atof(argv[i + 1]) * 1e6);
        else if (!strcmp(argv[i], "--truth")) {
            if (!(truth = fopen(argv[i + 1], "w"))) die(argv[i + 1]);
        } else { fprintf(stderr, "flatserver: unknown option %s\n", argv[i]); return 2; }
    }
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    struct rlimit files = {MAX_FD, MAX_FD};
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096)) die("listen");
    socklen_t len = sizeof at;
    getsockname(listener, (struct sockaddr *)&at, &len);
    ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e);
    printf("{\"url\":\"http://127.0.0.1:%d\"}\n", ntohs(at.sin_port));
    fflush(stdout);
    static struct epoll_event events[1024];
    while (!stopping) {
        struct timespec wait = {1, 0};
        if (heap_len) {
            int64_t left = conns[heap[0]]->due_ns - now_ns();
            if (left < 0) left = 0;
            wait.tv_sec = left / 1000000000;
            wait.tv_nsec = left % 1000000000;
        }
        struct pollfd p = {.fd = ep, .events = POLLIN};
        ppoll(&p, 1, &wait, NULL);
        int n = epoll_wait(ep, events, 1024, 0);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) { accept_all(listener); continue; }
            if (!conns[fd]) continue;
            int bad = 0;
            if (events[i].events & EPOLLOUT) bad = flush_out(fd);
            if (!bad && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) bad = readable(fd);
            if (bad) close_conn(fd);
        }
        run_due();
    }
    if (truth) fclose(truth);
    return 0;
}
