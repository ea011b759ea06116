/* SPDX-License-Identifier: BSD-2-Clause */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "io/kernel_attach.h"
#include "io/kernel_clsact.h"
#include "io/kernel_hook.h"
#include "io/kernel_private.h"
#include "io/kernel_sessions.h"
#include "io/kernel_tables.h"
#include "io/kernel_words.h"

#define SHADOW_PIN "shadow_cc"
#define SHADOW_PLACEHOLDER "prl_shadow_____" /* in shadow_cc.bpf.c, PRL_CC_NAME_BYTES with its NUL */
#define SHADOW_OBJECT_MAX (1 << 20)          /* bytes; the object has about 20,000 */
#define PIN_DIR_TRIES 3                      /* another instance may remove the empty root in between */

static const char *const object_names[PRL_OBJECT_COUNT] = {
    [PRL_OBJECT_EGRESS] = "egress",   [PRL_OBJECT_SOCKET] = "socket",     [PRL_OBJECT_CLASSIFY] = "classify",
    [PRL_OBJECT_INGRESS] = "ingress", [PRL_OBJECT_SESSIONS] = "sessions", [PRL_OBJECT_ANSWER] = "answer",
    [PRL_OBJECT_MIRROR] = "mirror",
};

static const struct {
    enum prl_object object;
    const char *name;
} programs[PRL_PROG_COUNT] = {
    [PRL_PROG_CLASSIFY] = {PRL_OBJECT_CLASSIFY, "prl_classify"},
    [PRL_PROG_INGRESS] = {PRL_OBJECT_INGRESS, "prl_ingress"},
    [PRL_PROG_EGRESS] = {PRL_OBJECT_EGRESS, "prl_egress"},
    [PRL_PROG_SILENCE] = {PRL_OBJECT_EGRESS, "prl_silence"},
    [PRL_PROG_INJECT] = {PRL_OBJECT_EGRESS, "prl_inject"},
    [PRL_PROG_PICK] = {PRL_OBJECT_EGRESS, "prl_pick"},
    [PRL_PROG_MUTE] = {PRL_OBJECT_EGRESS, "prl_mute"},
    [PRL_PROG_RELEASE] = {PRL_OBJECT_EGRESS, "prl_release"},
    [PRL_PROG_HOLD_GUARD] = {PRL_OBJECT_EGRESS, "prl_hold_guard"},
    [PRL_PROG_GATE] = {PRL_OBJECT_SOCKET, "prl_gate"},
    [PRL_PROG_SAMPLE] = {PRL_OBJECT_SOCKET, "prl_sample_run"},
    [PRL_PROG_REFERENCES] = {PRL_OBJECT_SOCKET, "prl_references_run"},
    [PRL_PROG_REST] = {PRL_OBJECT_SOCKET, "prl_rest_run"},
    [PRL_PROG_LOCAL] = {PRL_OBJECT_SOCKET, "prl_local"},
    [PRL_PROG_ANSWER] = {PRL_OBJECT_ANSWER, "prl_answer"},
    [PRL_PROG_MIRRORED] = {PRL_OBJECT_MIRROR, "prl_mirrored"},
};

static const char *const map_names[PRL_MAP_COUNT] = {
    [PRL_MAP_FLOWS] = "prl_flows",       [PRL_MAP_FLOW_STATE] = "prl_flow_state",
    [PRL_MAP_NODE] = "prl_node",         [PRL_MAP_ADDRS] = "prl_addrs",
    [PRL_MAP_LIFS] = "prl_lifs",         [PRL_MAP_LIF_OF] = "prl_lif_of",
    [PRL_MAP_CLSACTS] = "prl_clsacts",   [PRL_MAP_XSKS] = "prl_xsks",
    [PRL_MAP_GATES] = "prl_gates",       [PRL_MAP_SAMPLE] = "prl_sample",
    [PRL_MAP_SIEVE] = "prl_sieve",       [PRL_MAP_AWAITED] = "prl_awaited",
    [PRL_MAP_NEWBORNS] = "prl_newborns", [PRL_MAP_MIRROR] = "prl_mirror",
};

/* Where the instance's pins are. bpffs reserves names with dots, so a dot becomes a comma. */
static int pin_dir_of(const char *instance, char path[PRL_PATH_BYTES], char *error)
{
    size_t length = instance ? strlen(instance) : 0;

    if (!length || length > PRL_INSTANCE_MAX)
        return prl_kernel_fail(error, -EINVAL, "instance name must have 1 to %d characters", PRL_INSTANCE_MAX);
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)instance[i]) && !strchr("._-", instance[i]))
            return prl_kernel_fail(error, -EINVAL, "instance name %s: only [A-Za-z0-9._-] is allowed", instance);
    }
    int root = snprintf(path, PRL_PATH_BYTES, "%s/%s", PRL_PIN_ROOT, instance) - (int)length;
    for (char *dot = path + root; *dot; dot++) {
        if (*dot == '.')
            *dot = ',';
    }
    return 0;
}

/* 1: made, 0: was there already, or -errno. */
static int make_pin_dir(const char *path, char *error)
{
    int code = 0;
    for (int i = 0; i < PIN_DIR_TRIES; i++) {
        if (mkdir(PRL_PIN_ROOT, 0700) < 0 && errno != EEXIST)
            return prl_kernel_fail(
                error, -errno, "cannot create %s (bpffs must be mounted on /sys/fs/bpf, root only)", PRL_PIN_ROOT);
        if (mkdir(path, 0700) == 0)
            return 1;
        code = -errno;
        if (code == -EEXIST)
            return 0;
        if (code != -ENOENT)
            break;
    }
    return prl_kernel_fail(error, code, "cannot create %s", path);
}

static void pin_path(const char *pin_dir, const char *name, char path[PRL_PATH_BYTES + 32])
{
    snprintf(path, PRL_PATH_BYTES + 32, "%s/%s", pin_dir, name);
}

static void remove_pins(const char *pin_dir)
{
    char path[PRL_PATH_BYTES + 32];
    DIR *dir = opendir(pin_dir);
    if (!dir)
        return;
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 || strlen(entry->d_name) > 31)
            continue;
        pin_path(pin_dir, entry->d_name, path);
        unlink(path);
    }
    closedir(dir);
    rmdir(pin_dir);
    rmdir(PRL_PIN_ROOT); /* stays while another instance has pins */
}

/* Unregisters the shadow congestion control whose pin is in pin_dir; sockets that use it keep it until they change. */
static void unregister_shadow(const char *pin_dir)
{
    char path[PRL_PATH_BYTES + 32];
    uint32_t zero = 0;

    pin_path(pin_dir, SHADOW_PIN, path);
    int fd = bpf_obj_get(path);
    if (fd < 0)
        return;
    bpf_map_delete_elem(fd, &zero);
    close(fd);
    unlink(path);
}

static int set_sizes(struct bpf_object *object, uint32_t flows_max)
{
    static const enum prl_map sized[] = {PRL_MAP_FLOWS, PRL_MAP_FLOW_STATE, PRL_MAP_GATES};
    for (size_t i = 0; i < sizeof(sized) / sizeof(sized[0]); i++) {
        struct bpf_map *map = bpf_object__find_map_by_name(object, map_names[sized[i]]);
        int code = map ? bpf_map__set_max_entries(map, flows_max) : -ENOENT;
        if (code < 0)
            return code;
    }
    return 0;
}

static bool is_wanted(const struct prl_kernel *kernel, int object)
{
    bool mirrors = kernel->mode == PRL_XDP_MIRROR;

    if (object == PRL_OBJECT_ANSWER)
        return kernel->is_probed;
    return object == PRL_OBJECT_MIRROR ? mirrors : object != PRL_OBJECT_INGRESS || !mirrors;
}

/* Of the two that have a prl_ingress, one is loaded. */
static enum prl_object object_of(const struct prl_kernel *kernel, int program)
{
    return program == PRL_PROG_INGRESS && kernel->mode == PRL_XDP_MIRROR ? PRL_OBJECT_MIRROR
                                                                         : programs[program].object;
}

static int load_objects(struct prl_kernel *kernel, const char *folder, char *error)
{
    LIBBPF_OPTS(bpf_object_open_opts, options, .pin_root_path = kernel->pin_dir);
    for (int i = 0; i < PRL_OBJECT_COUNT; i++) {
        char path[PATH_MAX];
        if (!is_wanted(kernel, i))
            continue;
        if (snprintf(path, sizeof(path), "%s/%s.bpf.o", folder, object_names[i]) >= (int)sizeof(path))
            return prl_kernel_fail(error, -ENAMETOOLONG, "%s", folder);
        kernel->object[i] = bpf_object__open_file(path, &options);
        if (!kernel->object[i])
            return prl_kernel_fail(error, -errno, "cannot open %s", path);
        int code = set_sizes(kernel->object[i], kernel->flows_max);
        if (!code)
            code = bpf_object__load(kernel->object[i]);
        if (code < 0)
            return prl_kernel_fail(
                error, code,
                "the kernel refused %s (PRL_LIBBPF_DEBUG=1 shows why; pins of an earlier run in %s"
                " may not fit)",
                path, kernel->pin_dir);
    }
    for (int i = 0; i < PRL_PROG_COUNT; i++) {
        enum prl_object object = object_of(kernel, i);
        kernel->program[i] = -1;
        if (!is_wanted(kernel, object))
            continue;
        struct bpf_program *program = bpf_object__find_program_by_name(kernel->object[object], programs[i].name);
        if (!program)
            return prl_kernel_fail(error, -ENOENT, "no program %s in %s.bpf.o", programs[i].name,
                                   object_names[object]);
        kernel->program[i] = bpf_program__fd(program);
        kernel->program_id[i] = prl_program_id(kernel->program[i], NULL);
    }
    for (int i = 0; i < PRL_MAP_COUNT; i++) {
        int fd = -ENOENT;
        for (int j = 0; j < PRL_OBJECT_COUNT && fd < 0;
             j++) /* libbpf leaves out maps that an object does not use */
            if (kernel->object[j])
                fd = bpf_object__find_map_fd_by_name(kernel->object[j], map_names[i]);
        if (fd < 0 && (i != PRL_MAP_MIRROR || kernel->mode == PRL_XDP_MIRROR))
            return prl_kernel_fail(error, fd, "no map %s", map_names[i]);
        kernel->map[i] = fd < 0 ? -1 : fd;
    }
    return 0;
}

static size_t pages(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

/* An array map's elements are 8-byte aligned (kernel/bpf/arraymap.c); the mapped structures are multiples of 8 or
 * alone. */
_Static_assert(sizeof(struct prl_flow) % 8 == 0, "elements of prl_flow_state must be dense");

static void *map_shared(int fd, size_t bytes)
{
    void *memory = mmap(NULL, pages(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static int map_memory(struct prl_kernel *kernel, char *error)
{
    kernel->node = map_shared(kernel->map[PRL_MAP_NODE], sizeof(*kernel->node));
    kernel->sample = map_shared(kernel->map[PRL_MAP_SAMPLE], sizeof(*kernel->sample));
    kernel->sieve = map_shared(kernel->map[PRL_MAP_SIEVE], sizeof(*kernel->sieve));
    kernel->flow_state = map_shared(kernel->map[PRL_MAP_FLOW_STATE], kernel->flows_max * sizeof(struct prl_flow));
    if (kernel->map[PRL_MAP_MIRROR] >= 0)
        kernel->mirror = map_shared(kernel->map[PRL_MAP_MIRROR], sizeof(*kernel->mirror));
    if (!kernel->node || !kernel->sample || !kernel->sieve || !kernel->flow_state ||
        (kernel->map[PRL_MAP_MIRROR] >= 0 && !kernel->mirror))
        return prl_kernel_fail(error, -errno, "cannot map the shared memory of the BPF programs");
    return 0;
}

/* 32-bit FNV-1a */
static uint32_t hash_of(const char *text)
{
    uint32_t hash = 0x811c9dc5;
    for (; *text; text++)
        hash = (hash ^ (uint8_t)*text) * 0x01000193;
    return hash;
}

/* The whole file, to be freed; NULL when it cannot be read or is too large. */
static char *read_whole(const char *path, size_t *bytes)
{
    char *content = NULL;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return NULL;
    if (fstat(fd, &info) == 0 && info.st_size > 0 && info.st_size <= SHADOW_OBJECT_MAX)
        content = malloc((size_t)info.st_size);
    if (content && read(fd, content, (size_t)info.st_size) != info.st_size) {
        free(content);
        content = NULL;
    }
    *bytes = content ? (size_t)info.st_size : 0;
    close(fd);
    return content;
}

/* struct_ops are global to the kernel: gives the congestion control a name of the instance's own, in the object's
 * bytes, because libbpf has no call for it. */
static bool rename_shadow(char *object, size_t bytes, const char name[PRL_CC_NAME_BYTES])
{
    bool found = false;
    for (size_t at = 0; at + PRL_CC_NAME_BYTES <= bytes; at++) {
        if (memcmp(object + at, SHADOW_PLACEHOLDER, PRL_CC_NAME_BYTES) == 0) {
            memcpy(object + at, name, PRL_CC_NAME_BYTES);
            found = true;
        }
    }
    return found;
}

/* Registers the shadow congestion control and pins it. A kernel without struct_ops has none: shadow_map stays -1. */
static void load_shadow(struct prl_kernel *kernel, const char *folder, const char *instance)
{
    char path[PATH_MAX], pin[PRL_PATH_BYTES + 32], name[PRL_CC_NAME_BYTES] = {0};
    size_t bytes;

    unregister_shadow(kernel->pin_dir); /* of a former life */
    snprintf(name, sizeof(name), "prl_%08x", hash_of(instance));
    if (snprintf(path, sizeof(path), "%s/shadow_cc.bpf.o", folder) >= (int)sizeof(path))
        return;
    char *content = read_whole(path, &bytes);
    if (!content)
        return;
    if (rename_shadow(content, bytes, name)) {
        LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = "prl_shadow");
        kernel->shadow = bpf_object__open_mem(content, bytes, &options);
    }
    if (kernel->shadow && bpf_object__load(kernel->shadow) == 0) {
        struct bpf_map *map = bpf_object__find_map_by_name(kernel->shadow, "prl_shadow");
        struct bpf_link *link = map ? bpf_map__attach_struct_ops(map) : NULL;
        if (link) {
            bpf_link__disconnect(link); /* registered until the map's element is deleted */
            bpf_link__destroy(link);
            kernel->shadow_map = bpf_map__fd(map);
            memcpy(kernel->shadow_name, name, sizeof(name));
            pin_path(kernel->pin_dir, SHADOW_PIN, pin);
            bpf_obj_pin(kernel->shadow_map, pin); /* lets scrub find it; failing, it goes with the last socket */
        }
    }
    free(content);
}

static void set_node(struct prl_kernel *kernel, const struct prl_kernel_config *config)
{
    static const uint8_t none[6];

    kernel->node->stale_ns = config->stale_ns;
    kernel->node->hold_ns = config->hold_ns;
    kernel->node->hung_ns = config->hung_ns;
    kernel->node->leases = 0; /* until the link is up */
    kernel->node->hold_ifindex = kernel->hold_ifindex;
    if (kernel->mirror) /* of a former life: until the link is up, and its queue there */
        kernel->mirror->ifindex = kernel->mirror->queue_mark = 0;
    if (memcmp(kernel->node->cookie, none, sizeof(none)) != 0)
        return;
    uint8_t cookie[6];
    if (getrandom(cookie, sizeof(cookie), 0) != sizeof(cookie))
        return; /* six bytes never block or fail once the system is up; without a cookie nothing is exempt */
    cookie[0] = (uint8_t)((cookie[0] & 0xfc) | 2); /* local, unicast */
    memcpy(kernel->node->cookie, cookie, sizeof(cookie));
}

static int check_config(const struct prl_kernel_config *config, char *error)
{
    if (!config->flows_max || config->flows_max > PRL_FLOWS_MAX)
        return prl_kernel_fail(error, -EINVAL, "flows_max %u: 1 to %u", config->flows_max, PRL_FLOWS_MAX);
    if (config->lifs > PRL_LIFS_MAX)
        return prl_kernel_fail(error, -EINVAL, "%u interfaces: at most %u", config->lifs, PRL_LIFS_MAX);
    if (config->mode < PRL_XDP_NATIVE || config->mode > PRL_XDP_MIRROR)
        return prl_kernel_fail(error, -EINVAL, "XDP mode %u is unknown", config->mode);
    return 0;
}

/* Frees everything in this process; what is attached and pinned stays. */
static void release_memory(struct prl_kernel *kernel)
{
    prl_kernel_sessions_close(kernel);
    if (kernel->node)
        munmap(kernel->node, pages(sizeof(*kernel->node)));
    if (kernel->sample)
        munmap(kernel->sample, pages(sizeof(*kernel->sample)));
    if (kernel->sieve)
        munmap(kernel->sieve, pages(sizeof(*kernel->sieve)));
    if (kernel->flow_state)
        munmap(kernel->flow_state, pages(kernel->flows_max * sizeof(struct prl_flow)));
    if (kernel->mirror)
        munmap(kernel->mirror, pages(sizeof(*kernel->mirror)));
    for (int i = 0; i < PRL_OBJECT_COUNT; i++)
        bpf_object__close(kernel->object[i]);
    bpf_object__close(kernel->shadow);
    free(kernel);
}

struct prl_kernel *prl_kernel_open(const struct prl_kernel_config *config, char *error)
{
    prl_kernel_set_printer();
    if (check_config(config, error) < 0)
        return NULL;
    struct prl_kernel *kernel = calloc(1, sizeof(*kernel));
    if (!kernel) {
        prl_kernel_fail(error, -ENOMEM, "cannot open the BPF programs");
        return NULL;
    }
    kernel->flows_max = config->flows_max;
    kernel->mode = config->mode;
    kernel->fallback_mode = config->fallback_mode;
    kernel->lifs = config->lifs;
    memcpy(kernel->ifindex, config->ifindex, sizeof(kernel->ifindex));
    memcpy(kernel->vrf_ifindex, config->vrf_ifindex, sizeof(kernel->vrf_ifindex));
    kernel->inject_ifindex = config->inject_ifindex;
    kernel->hold_ifindex = config->hold_ifindex;
    kernel->link_ifindex = config->link_ifindex;
    kernel->is_probed = config->hung_ns != 0;
    kernel->shadow_map = -1;

    int made = pin_dir_of(config->instance, kernel->pin_dir, error);
    if (!made)
        made = make_pin_dir(kernel->pin_dir, error);
    if (made < 0) {
        release_memory(kernel);
        return NULL;
    }
    if (load_objects(kernel, config->object_dir, error) < 0 || map_memory(kernel, error) < 0) {
        if (made)
            remove_pins(kernel->pin_dir);
        release_memory(kernel);
        return NULL;
    }
    kernel->made_pin_dir = made;
    set_node(kernel, config);
    prl_kernel_inherit_bits(kernel);
    load_shadow(kernel, config->object_dir, config->instance);
    return kernel;
}

void prl_kernel_close(struct prl_kernel *kernel, int keep_silence)
{
    if (!kernel)
        return;
    if (!keep_silence) {
        prl_kernel_detach(kernel);
        unregister_shadow(kernel->pin_dir);
        remove_pins(kernel->pin_dir);
    }
    release_memory(kernel);
}

uint64_t prl_kernel_open_at_ns(struct prl_kernel *kernel)
{
    return prl_open_at_ns(kernel->node);
}

struct prl_node *prl_kernel_node(struct prl_kernel *kernel)
{
    return kernel->node;
}

struct prl_mirror *prl_kernel_mirror(struct prl_kernel *kernel)
{
    return kernel->mirror;
}

/* The interface last: prl_ingress clones once it is there. */
int prl_kernel_mirror_set(struct prl_kernel *kernel, const uint8_t *mac)
{
    if (!kernel->mirror)
        return -ENOTSUP;
    __atomic_store_n(&kernel->mirror->ifindex, 0, __ATOMIC_RELEASE);
    if (!mac)
        return 0;
    memcpy(kernel->mirror->mac, mac, sizeof(kernel->mirror->mac));
    __atomic_store_n(&kernel->mirror->ifindex, kernel->link_ifindex, __ATOMIC_RELEASE);
    return 0;
}

const char *prl_kernel_shadow_cc(struct prl_kernel *kernel)
{
    return kernel->shadow_map < 0 ? NULL : kernel->shadow_name;
}

int prl_kernel_is_inherited(const char *instance, const uint32_t *ifindexes, uint32_t count)
{
    char pin_dir[PRL_PATH_BYTES], path[PRL_PATH_BYTES + 32];
    bool guarded = count > 0;

    prl_kernel_set_printer();
    if (pin_dir_of(instance, pin_dir, NULL) < 0)
        return 0;
    pin_path(pin_dir, map_names[PRL_MAP_LIFS], path);
    int lifs = bpf_obj_get(path);
    if (lifs < 0)
        return 0;
    for (uint32_t i = 0; i < PRL_LIFS_MAX; i++) {
        struct prl_lif lif = {0};
        if (bpf_map_lookup_elem(lifs, &i, &lif) < 0)
            guarded = false;
        else if (i < count)
            guarded &= lif.ifindex == ifindexes[i] && prl_kernel_is_guarded(&lif);
        else
            guarded &= lif.ifindex == 0;
    }
    close(lifs);
    return guarded;
}

void prl_kernel_forget(struct prl_kernel *kernel)
{
    struct prl_flow_key key;
    uint64_t cookie;

    for (uint32_t i = 0; i < kernel->flows_max; i++) { /* flags before the look-up goes: gates read them */
        struct prl_flow *flow = prl_kernel_flow(kernel, i);
        if (flow->flags)
            __atomic_store_n(&flow->flags, PRL_FLOW_OPEN, __ATOMIC_RELEASE);
    }
    for (uint32_t i = 0; i < kernel->flows_max; i++) {
        if (bpf_map_get_next_key(kernel->map[PRL_MAP_FLOWS], NULL, &key) < 0)
            break;
        bpf_map_delete_elem(kernel->map[PRL_MAP_FLOWS], &key);
    }
    memset(kernel->sieve, 0, sizeof(*kernel->sieve));
    for (uint32_t i = 0; i < kernel->flows_max; i++) {
        if (bpf_map_get_next_key(kernel->map[PRL_MAP_GATES], NULL, &cookie) < 0)
            break;
        bpf_map_delete_elem(kernel->map[PRL_MAP_GATES], &cookie);
    }
    prl_kernel_await_nothing(kernel);
    kernel->node->bypassed = 0;
    kernel->node->open_wanted = 0;
}

int prl_kernel_scrub(const char *instance, int is_alone, char *error)
{
    char pin_dir[PRL_PATH_BYTES], path[PRL_PATH_BYTES + 32];

    prl_kernel_set_printer();
    int code = pin_dir_of(instance, pin_dir, error);
    if (code < 0)
        return code;
    pin_path(pin_dir, map_names[PRL_MAP_LIFS], path);
    int lifs = bpf_obj_get(path);
    for (uint32_t i = 0; lifs >= 0 && i < PRL_LIFS_MAX; i++) {
        struct prl_lif lif;
        if (bpf_map_lookup_elem(lifs, &i, &lif) == 0 && lif.ifindex)
            prl_kernel_scrub_lif(&lif);
    }
    if (lifs >= 0)
        close(lifs);
    if (is_alone)
        prl_kernel_scrub_silence();
    pin_path(pin_dir, map_names[PRL_MAP_CLSACTS], path);
    int clsacts = bpf_obj_get(path);
    if (clsacts >= 0) {
        prl_clsact_remove_all(clsacts);
        close(clsacts);
    }
    unregister_shadow(pin_dir);
    remove_pins(pin_dir);
    return 0;
}
