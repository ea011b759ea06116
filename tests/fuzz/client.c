/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What prld, or whoever sits at its socket, says to a program (client/prl_client.c): an event is understood or refused, no
 * descriptor is lost or closed twice, and what the event says fits where it is put.
 */
#define _GNU_SOURCE /* as prl_client.c, which comes later */
#include "../../userspace/client/prl_client.c"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct prl_client client;
    static int memory = -1; /* with an application's data, as prld sends it when it is long */
    struct prl_client_event event = {.fd = -1};
    struct members members;
    int fds[FDS_MAX], count, result, lowest;
    char *exact;

    if (bytes < 1 || bytes > MESSAGE_MAX)
        return 0;
    if (memory < 0) {
        memory = memory_with("application data", 16);
        assert(memory >= 0);
    }
    count = data[0] % (FDS_MAX + 1);
    exact = (char *)fuzz_exact(data + 1, bytes - 1); /* first alone: the sanitizer sees any read beyond it */
    result = read_members(exact, bytes - 1, &members);
    assert(result == 0 || result == -EPROTO);
    client = (struct prl_client){.fd = -1, .under_way = 1};
    client.last = &client.first;
    memcpy(client.message, exact, bytes - 1);
    lowest = dup(0);
    for (int i = 0; i < count; i++)
        fds[i] = dup(memory);
    close(lowest);
    result = understand(&client, bytes - 1, fds, &count, data[0] & 0x80, &event);
    assert(result == 0 || result == 1 || result == -EPROTO || result == -ENOMEM || result == -EMFILE);
    if (result == 1) {
        assert(memchr(event.local, 0, sizeof(event.local)) && memchr(event.remote, 0, sizeof(event.remote)));
        assert(memchr(event.reason, 0, sizeof(event.reason)));
        fuzz_touch(event.application, event.application_bytes);
    }
    for (int i = 0; i < count; i++)
        if (fds[i] >= 0)
            assert(close(fds[i]) == 0);
    prl_client_release(&event);
    count = dup(0);
    assert(count == lowest); /* all are closed again */
    close(count);
    free(exact);
    return 0;
}
