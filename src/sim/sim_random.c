#include "build_config.h"

#include "sim/sim_random.h"

#include <event2/util.h>
#include <stdio.h>

void sim_random_name(char *out, size_t length)
{
    unsigned char bytes[64];
    if (length > sizeof bytes)
        length = sizeof bytes;
    evutil_secure_rng_get_bytes(bytes, length);
    for (size_t i = 0; i < length; i++)
        out[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[bytes[i] % 36];
    out[length] = '\0';
}

void sim_random_uuid(char out[37])
{
    unsigned char b[16];
    evutil_secure_rng_get_bytes(b, sizeof b);
    b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
    b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
    snprintf(out, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
             b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
             b[14], b[15]);
}
