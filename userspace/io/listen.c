/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/listen.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define OBJECT "listen.bpf.o"
#define PATH_BYTES 4096

struct prl_listen {
    struct bpf_object *object;
    struct ring_buffer *ring;
    int program, listeners, unheard;
    uint8_t *record; /* where prl_listen_next()'s caller wants it */
    uint32_t capacity, bytes;
};

/* One record a call: a negative answer ends the round, and the record counts as taken (libbpf, ringbuf.c). */
static int take(void *context, void *data, size_t bytes)
{
    struct prl_listen *listen = context;

    listen->bytes = bytes < listen->capacity ? (uint32_t)bytes : listen->capacity;
    memcpy(listen->record, data, listen->bytes);
    return -ECANCELED;
}

static int map_fd(const struct prl_listen *listen, const char *name)
{
    return bpf_object__find_map_fd_by_name(listen->object, name);
}

static int load(struct prl_listen *listen, const char *path)
{
    struct bpf_program *program;
    int code;

    listen->object = bpf_object__open_file(path, NULL);
    code = libbpf_get_error(listen->object) ? -errno : bpf_object__load(listen->object);
    if (code)
        return code;
    program = bpf_object__find_program_by_name(listen->object, "prl_listen");
    if (!program)
        return -ENOENT;
    listen->program = bpf_program__fd(program);
    listen->listeners = map_fd(listen, "prl_listeners");
    listen->unheard = map_fd(listen, "prl_unheard");
    listen->ring = ring_buffer__new(map_fd(listen, "prl_heard"), take, listen, NULL);
    return listen->ring ? 0 : -errno;
}

struct prl_listen *prl_listen_open(const char *object_dir, char *error)
{
    struct prl_listen *listen = calloc(1, sizeof(*listen));
    char path[PATH_BYTES];
    int code;

    snprintf(path, sizeof(path), "%s/%s", object_dir, OBJECT);
    code = listen ? load(listen, path) : -ENOMEM;
    if (code) {
        snprintf(error, PRL_ERROR_BYTES, "cannot load %.150s: %s", path, strerror(-code));
        prl_listen_close(listen);
        return NULL;
    }
    return listen;
}

void prl_listen_close(struct prl_listen *listen)
{
    if (!listen)
        return;
    if (listen->ring)
        ring_buffer__free(listen->ring);
    if (!libbpf_get_error(listen->object))
        bpf_object__close(listen->object);
    free(listen);
}

int prl_listen_fd(const struct prl_listen *listen)
{
    return ring_buffer__epoll_fd(listen->ring);
}

static int cookie_of(int fd, uint64_t *cookie)
{
    socklen_t bytes = sizeof(*cookie);

    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, cookie, &bytes) < 0 ? -errno : 0;
}

int prl_listen_attach(struct prl_listen *listen, int fd)
{
    uint32_t one = 1;
    uint64_t cookie;
    int code = cookie_of(fd, &cookie);

    if (!code)
        code = bpf_map_update_elem(listen->listeners, &cookie, &one, BPF_ANY);
    if (!code && setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &listen->program, sizeof(listen->program)) < 0) {
        code = -errno;
        bpf_map_delete_elem(listen->listeners, &cookie);
    }
    return code;
}

int prl_listen_detach(struct prl_listen *listen, int fd)
{
    uint64_t cookie;
    int unused = 0, code = cookie_of(fd, &cookie);

    if (code)
        return code;
    bpf_map_delete_elem(listen->listeners, &cookie);
    return setsockopt(fd, SOL_SOCKET, SO_DETACH_BPF, &unused, sizeof(unused)) < 0 ? -errno : 0;
}

int prl_listen_next(struct prl_listen *listen, uint8_t *record, uint32_t capacity)
{
    listen->record = record;
    listen->capacity = capacity;
    listen->bytes = 0;
    int code = ring_buffer__consume(listen->ring);
    return code < 0 && code != -ECANCELED ? code : (int)listen->bytes;
}

uint64_t prl_listen_lost(const struct prl_listen *listen)
{
    uint32_t zero = 0;
    uint64_t lost = 0;

    bpf_map_lookup_elem(listen->unheard, &zero, &lost);
    return lost;
}
