/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/steer.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OBJECT "steer.bpf.o"
#define PATH_BYTES 4096
#define NAMESPACE "/proc/thread-self/ns/net"

struct prl_steer {
    struct bpf_object *object;
    struct bpf_program *program;
    struct bpf_link *link;
    int to, peers, dials;
    uint32_t count;
};

static int load(struct prl_steer *steer, const char *path)
{
    int code;

    steer->object = bpf_object__open_file(path, NULL);
    code = libbpf_get_error(steer->object) ? -errno : bpf_object__load(steer->object);
    if (code)
        return code;
    steer->program = bpf_object__find_program_by_name(steer->object, "prl_steer");
    steer->to = bpf_object__find_map_fd_by_name(steer->object, "prl_steer_to");
    steer->peers = bpf_object__find_map_fd_by_name(steer->object, "prl_steer_peers");
    steer->dials = bpf_object__find_map_fd_by_name(steer->object, "prl_steer_dials");
    return steer->program ? 0 : -ENOENT;
}

struct prl_steer *prl_steer_open(const char *object_dir, char *error)
{
    struct prl_steer *steer = calloc(1, sizeof(*steer));
    char path[PATH_BYTES];
    int code;

    snprintf(path, sizeof(path), "%s/%s", object_dir, OBJECT);
    code = steer ? load(steer, path) : -ENOMEM;
    if (code) {
        snprintf(error, PRL_ERROR_BYTES, "cannot load %.150s: %s", path, strerror(-code));
        prl_steer_close(steer);
        return NULL;
    }
    return steer;
}

int prl_steer_add(struct prl_steer *steer, const struct prl_steer_ends *ends, int inner, int outer)
{
    const uint64_t fds[PRL_STEER_LISTENERS] = {[PRL_STEER_INNER] = (uint32_t)inner,
                                               [PRL_STEER_OUTER] = (uint32_t)outer};
    uint32_t place = steer->count * PRL_STEER_LISTENERS;

    if (steer->count == PRL_STEER_PEERS_MAX)
        return -ENOSPC;
    for (uint32_t which = 0; which < PRL_STEER_LISTENERS; which++) {
        uint32_t key = place + which;
        int code = bpf_map_update_elem(steer->to, &key, &fds[which], BPF_ANY);
        if (code)
            return code;
    }
    steer->count++;
    return bpf_map_update_elem(steer->peers, ends, &place, BPF_NOEXIST);
}

int prl_steer_dial(struct prl_steer *steer, const struct prl_steer_ends *ends, uint16_t port)
{
    uint32_t place, value = port, number;
    int code = bpf_map_lookup_elem(steer->peers, ends, &place);

    if (code)
        return code;
    number = place / PRL_STEER_LISTENERS;
    return bpf_map_update_elem(steer->dials, &number, &value, BPF_ANY);
}

int prl_steer_attach(struct prl_steer *steer)
{
    int fd = open(NAMESPACE, O_RDONLY | O_CLOEXEC), code;

    if (fd < 0)
        return -errno;
    steer->link = bpf_program__attach_netns(steer->program, fd);
    code = libbpf_get_error(steer->link) ? -errno : 0;
    if (code)
        steer->link = NULL;
    close(fd);
    return code;
}

void prl_steer_close(struct prl_steer *steer)
{
    if (!steer)
        return;
    bpf_link__destroy(steer->link);
    if (!libbpf_get_error(steer->object))
        bpf_object__close(steer->object);
    free(steer);
}
