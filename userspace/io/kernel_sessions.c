/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/kernel_sessions.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io/kernel_private.h"
#include "io/kernel_words.h"

#define MOUNTS "/proc/self/mounts"

#define STRANGERS_READ 64 /* at a time */

/* One record a call: a negative answer ends the round, and the record counts as taken (libbpf, ringbuf.c). */
static int take(void *context, void *data, size_t bytes)
{
    struct prl_kernel *kernel = context;

    if (bytes < sizeof(kernel->news))
        return 0;
    memcpy(&kernel->news, data, sizeof(kernel->news));
    kernel->has_news = true;
    return -ECANCELED;
}

/* Where cgroup v2 is mounted, be it beside cgroup v1. A descriptor or -ENOENT. */
static int open_mounted(void)
{
    FILE *mounts = setmntent(MOUNTS, "re");
    int fd = -ENOENT;

    if (!mounts)
        return -errno;
    for (const struct mntent *one = getmntent(mounts); one && fd < 0; one = getmntent(mounts))
        if (strcmp(one->mnt_type, "cgroup2") == 0)
            fd = open(one->mnt_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    endmntent(mounts);
    return fd < 0 ? -ENOENT : fd;
}

/* Its root without a place in the file system: in a root file system of its own it may be mounted nowhere. */
static int open_unmounted(void)
{
    int context = (int)syscall(SYS_fsopen, "cgroup2", FSOPEN_CLOEXEC);
    int fd;

    if (context < 0)
        return -errno;
    fd = syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0)
             ? -1
             : (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
    fd = fd < 0 ? -errno : fd;
    close(context);
    return fd;
}

static int netns_cookie(uint64_t *cookie)
{
    socklen_t bytes = sizeof(__u64);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int err = fd < 0 || getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, cookie, &bytes) ? -errno : 0;

    if (fd >= 0)
        close(fd);
    return err;
}

int prl_kernel_sessions_attach(struct prl_kernel *kernel, char *error)
{
    struct bpf_object *object = kernel->object[PRL_OBJECT_SESSIONS];
    struct bpf_program *program = bpf_object__find_program_by_name(object, "prl_sessions");
    uint64_t cookie = 0;
    int err = netns_cookie(&cookie);
    int cgroup = open_mounted();

    if (cgroup < 0)
        cgroup = open_unmounted();
    if (err || cgroup < 0) {
        prl_kernel_fail(error, err ? err : cgroup, "%s",
                        err ? "no cookie of this network namespace" : "cgroup v2 cannot be opened");
        if (cgroup >= 0)
            close(cgroup);
        return err ? err : cgroup;
    }
    kernel->node->netns_cookie = cookie;
    kernel->ring = ring_buffer__new(bpf_object__find_map_fd_by_name(object, "prl_news"), take, kernel, NULL);
    err = kernel->ring ? 0 : -errno;
    if (!err) {
        kernel->sessions = bpf_program__attach_cgroup(program, cgroup);
        err = kernel->sessions ? 0 : -errno;
    }
    close(cgroup);
    if (!err)
        return 0;
    prl_kernel_sessions_close(kernel);
    return prl_kernel_fail(error, err, "no sock_ops program at the root of cgroup v2");
}

void prl_kernel_sessions_close(struct prl_kernel *kernel)
{
    if (kernel->sessions)
        bpf_link__destroy(kernel->sessions);
    if (kernel->strangers)
        bpf_link__destroy(kernel->strangers);
    if (kernel->ring)
        ring_buffer__free(kernel->ring);
    kernel->sessions = NULL;
    kernel->strangers = NULL;
    kernel->ring = NULL;
}

int prl_kernel_sessions_fd(const struct prl_kernel *kernel)
{
    return kernel->sessions ? ring_buffer__epoll_fd(kernel->ring) : -1;
}

int prl_kernel_sessions_news(struct prl_kernel *kernel, struct prl_news *news)
{
    kernel->has_news = false;
    if (kernel->sessions)
        ring_buffer__consume(kernel->ring);
    if (kernel->has_news)
        *news = kernel->news;
    return kernel->has_news;
}

/* The kernel gives whole records, as many as fit. Returns their number, 0 at the end, or -errno. */
static int read_strangers(int fd, struct prl_stranger *found)
{
    ssize_t bytes;

    do
        bytes = read(fd, found, STRANGERS_READ * sizeof(*found));
    while (bytes < 0 && (errno == EINTR || errno == EAGAIN)); /* EAGAIN: so many sockets were of no interest */
    return bytes < 0 ? -errno : (int)((size_t)bytes / sizeof(*found));
}

static bool is_of(const struct prl_stranger *stranger, const struct prl_addr_key *of, uint32_t ofs)
{
    for (uint32_t i = 0; i < ofs; i++)
        if (!memcmp(stranger->local, of[i].addr, sizeof(of[i].addr)) &&
            (!of[i].ifindex || !stranger->ifindex || of[i].ifindex == stranger->ifindex))
            return true;
    return !ofs;
}

int prl_kernel_strangers(struct prl_kernel *kernel, const struct prl_addr_key *of, uint32_t ofs,
                         struct prl_stranger *found, uint32_t capacity)
{
    struct prl_stranger some[STRANGERS_READ];
    uint32_t count = 0;
    int fd, got;

    if (!kernel->strangers) {
        kernel->strangers = bpf_program__attach_iter(
            bpf_object__find_program_by_name(kernel->object[PRL_OBJECT_SESSIONS], "prl_strangers"), NULL);
        if (!kernel->strangers)
            return -errno;
    }
    fd = bpf_iter_create(bpf_link__fd(kernel->strangers));
    if (fd < 0)
        return fd;
    while ((got = read_strangers(fd, some)) > 0)
        for (int i = 0; i < got; i++) {
            if (!is_of(&some[i], of, ofs))
                continue;
            if (count < capacity)
                found[count] = some[i];
            count++;
        }
    close(fd);
    return got < 0 ? got : (int)count;
}
