#include "http_server.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct HttpServer {
    HttpAnswer answer;
    void *context;
    int listener, end[2]; // end: a pipe whose closing ends the thread
    char url[64];
    pthread_t thread;
};

static void require(bool holds, const char *what)
{
    if (holds)
        return;
    perror(what);
    abort();
}

// Whether there is something to read before the server ends.
static bool readable(const HttpServer *server, int fd)
{
    struct pollfd fds[] = {{.fd = fd, .events = POLLIN}, {.fd = server->end[0], .events = POLLIN}};
    return poll(fds, 2, -1) > 0 && fds[1].revents == 0;
}

static bool read_head(const HttpServer *server, int fd, char *request)
{
    size_t size = 0;
    while (size + 1 < HTTP_REQUEST_MAX && readable(server, fd)) {
        ssize_t got = recv(fd, request + size, HTTP_REQUEST_MAX - 1 - size, 0);
        if (got <= 0)
            return false;
        size += (size_t)got;
        request[size] = '\0';
        if (strstr(request, "\r\n\r\n"))
            return true;
    }
    return false;
}

static void send_text(int fd, const char *text, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, text, size, MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        text += sent;
        size -= (size_t)sent;
    }
}

static void send_reply(int fd, const HttpReply *reply)
{
    char head[512];
    const char *body = reply->body ? reply->body : "";
    size_t length = strlen(body), whole = length * (reply->repeat + 1) + (reply->cut ? 100 : 0);
    int size =
        snprintf(head, sizeof head, "HTTP/1.1 %d Some\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n",
            reply->code, reply->header ? reply->header : "", whole);
    send_text(fd, head, (size_t)size);
    for (size_t i = 0; i <= reply->repeat; i++)
        send_text(fd, body, length);
}

static void serve(const HttpServer *server, int fd)
{
    char request[HTTP_REQUEST_MAX], rest;
    if (!read_head(server, fd, request))
        return;
    HttpReply reply = server->answer(server->context, request);
    if (reply.silent)
        while (readable(server, fd) && recv(fd, &rest, 1, 0) > 0)
            ;
    else if (reply.code > 0)
        send_reply(fd, &reply);
}

static void *run(void *argument)
{
    HttpServer *server = argument;
    while (readable(server, server->listener)) {
        int fd = accept(server->listener, NULL, NULL);
        if (fd < 0)
            continue;
        serve(server, fd);
        close(fd);
    }
    return NULL;
}

HttpServer *http_server_start(HttpAnswer answer, void *context)
{
    HttpServer *server = calloc(1, sizeof *server);
    require(server != NULL, "calloc");
    server->answer = answer;
    server->context = context;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    require(server->listener >= 0, "socket");
    require(bind(server->listener, (struct sockaddr *)&address, size) == 0, "bind");
    require(listen(server->listener, 16) == 0, "listen");
    require(getsockname(server->listener, (struct sockaddr *)&address, &size) == 0, "getsockname");
    snprintf(server->url, sizeof server->url, "http://127.0.0.1:%d", ntohs(address.sin_port));
    require(pipe(server->end) == 0, "pipe");
    require(pthread_create(&server->thread, NULL, run, server) == 0, "pthread_create");
    return server;
}

void http_server_stop(HttpServer *server)
{
    close(server->end[1]);
    pthread_join(server->thread, NULL);
    close(server->end[0]);
    close(server->listener);
    free(server);
}

const char *http_server_url(const HttpServer *server)
{
    return server->url;
}
