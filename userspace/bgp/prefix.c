/* SPDX-License-Identifier: BSD-2-Clause */
#include "bgp/prefix.h"

#include <errno.h>
#include <string.h>

#define AFI_IPV4 1
#define AFI_IPV6 2
#define SAFI_UNICAST 1
#define SAFI_MULTICAST 2

static const struct {
    uint16_t afi;
    uint8_t safi;
    uint8_t address_bytes;
} families[PRL_BGP_FAMILIES] = {
    [PRL_BGP_IPV4_UNICAST] = {AFI_IPV4, SAFI_UNICAST, 4},
    [PRL_BGP_IPV6_UNICAST] = {AFI_IPV6, SAFI_UNICAST, 16},
    [PRL_BGP_IPV4_MULTICAST] = {AFI_IPV4, SAFI_MULTICAST, 4},
    [PRL_BGP_IPV6_MULTICAST] = {AFI_IPV6, SAFI_MULTICAST, 16},
};

uint32_t prl_bgp_family(uint32_t afi, uint32_t safi)
{
    uint32_t family;

    for (family = 0; family < PRL_BGP_FAMILIES; family++)
        if (families[family].afi == afi && families[family].safi == safi)
            break;
    return family;
}

uint32_t prl_bgp_afi(uint32_t family)
{
    return families[family].afi;
}

uint32_t prl_bgp_safi(uint32_t family)
{
    return families[family].safi;
}

uint32_t prl_bgp_key_bytes(uint32_t family)
{
    return PRL_BGP_PATH_BYTES + 1u + families[family].address_bytes;
}

static uint32_t address_bytes(uint32_t bits)
{
    return (bits + 7) / 8;
}

int prl_bgp_prefix_take(uint32_t family, bool paths, const uint8_t *at, uint32_t bytes,
                        struct prl_bgp_prefix *prefix)
{
    uint32_t head = paths ? PRL_BGP_PATH_BYTES + 1 : 1, bits, address;
    uint8_t *to = prefix->key + PRL_BGP_PATH_BYTES + 1;

    if (bytes < head)
        return -EBADMSG;
    bits = at[head - 1];
    address = address_bytes(bits);
    if (address > families[family].address_bytes || bytes - head < address)
        return -EBADMSG;
    memset(prefix->key, 0, sizeof(prefix->key));
    memcpy(to - head, at, head + address);
    if (bits % 8)
        to[address - 1] &= (uint8_t)(0xff00 >> bits % 8);
    return (int)(head + address);
}

uint32_t prl_bgp_nlri_bytes(bool paths, const uint8_t *key)
{
    return (paths ? PRL_BGP_PATH_BYTES : 0) + 1 + address_bytes(key[PRL_BGP_PATH_BYTES]);
}

uint32_t prl_bgp_prefix_put(bool paths, const uint8_t *key, uint8_t *into)
{
    uint32_t bytes = prl_bgp_nlri_bytes(paths, key);

    memcpy(into, paths ? key : key + PRL_BGP_PATH_BYTES, bytes);
    return bytes;
}
